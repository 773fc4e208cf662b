"""What the roles of a CTA share: its plan, its memory, the kernel's parameters, and the walk over tiles."""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float16, Float32, Int32, Int64

from jax_fa4.kernels.copies import Tiles
from jax_fa4.kernels.given import Arrays, Scores
from jax_fa4.kernels.rings import OpenRing, open_rows
from jax_fa4.kernels.row_softmax import RowSoftmax
from jax_fa4.kernels.sm90.plan import ForwardPlan
from jax_fa4.kernels.tile_loop import Walk

DTYPES = {"bfloat16": BFloat16, "float16": Float16}
SHARED = cutlass.AddressSpace.smem
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
    k: OpenRing
    v: OpenRing
    out: OpenRing
    # Those that some plans have not.
    room: Any = None
    owners: Any = None
    clean: Any = None


@dataclass(frozen=True)
class Cta:
    """Everything that a role's program reads."""

    plan: ForwardPlan
    shared: Shared
    rings: Rings
    arrays: Arrays
    walk: Walk
    scores: Scores

    @property
    def softmax(self) -> RowSoftmax:
        """How a row's softmax is done; where there are logits of a row's own, these are in units of log2(e).

        No polynomials: while the special function unit does a block's exponentials, the tensor core does half a block.
        """
        scale = Float32(1.0) if self.plan.is_general else self.scores.scale_log2
        return RowSoftmax(scale, self.plan.rescale_threshold, polynomial=0, degree=0)

    @property
    def keys(self) -> Tiles:
        """The tiles of K."""
        return Tiles(self.plan.keys, self.rings.k, self.shared.k, self.arrays.k)

    @property
    def values(self) -> Tiles:
        """The tiles of V."""
        return Tiles(self.plan.values, self.rings.v, self.shared.v, self.arrays.v)


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
    return Rings(**open_rows(plan.rings, shared.barriers))


def warp_index() -> Any:
    """Returns the warp's number in the CTA."""
    return cute.arch.make_warp_uniform(cute.arch.warp_idx())
