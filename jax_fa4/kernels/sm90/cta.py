"""What the roles of a Hopper CTA share: its memory and its rings."""

from dataclasses import dataclass
from typing import Any

import cutlass
from cutlass import Int32, Int64

from jax_fa4.kernels.cta import SHARED
from jax_fa4.kernels.rings import OpenRing, open_rows
from jax_fa4.kernels.sm90.plan import ForwardPlan

TILES = ("q", "k", "v", "out")


@dataclass(frozen=True)
class Shared:
    """A CTA's shared memory, as 32-bit words; out may lie over q."""

    q: Any
    k: Any
    v: Any
    out: Any
    owners: Any
    barriers: Any


@dataclass(frozen=True)
class Rings:
    """All rings of the plan."""

    q: OpenRing
    keys: OpenRing
    values: OpenRing
    out: OpenRing
    # Those that some plans have not.
    room: Any = None
    owners: Any = None
    clean: Any = None


def allocate_shared(plan: ForwardPlan) -> Shared:
    """Allocates shared memory in the order of the plan's map."""
    arrays: dict[str, Any] = {"owners": None}
    for region in plan.shared:
        dtype = Int64 if region.name == "barriers" else Int32
        alignment = 1024 if region.name in TILES else 16
        arrays[region.name] = cutlass.Array(dtype, region.extent * 8 // dtype.width, space=SHARED, alignment=alignment)
    arrays.setdefault("out", arrays["q"])
    return Shared(**arrays)


def rings_of(plan: ForwardPlan, shared: Shared) -> Rings:
    """Opens the plan's rings."""
    rings = open_rows(plan.rings, shared.barriers)
    return Rings(keys=rings.pop("k"), values=rings.pop("v"), **rings)
