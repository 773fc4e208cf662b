"""What the roles of a Blackwell CTA share: its shared and its tensor memory."""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64

from jax_fa4.kernels import cta
from jax_fa4.kernels.cta import SHARED, warp_index
from jax_fa4.kernels.parts import WARP
from jax_fa4.kernels.sm100.plan import ForwardPlan
from jax_fa4.kernels.tile_loop import Int


@dataclass(frozen=True)
class Shared:
    """A CTA's shared memory, as 32-bit words. k and v are the same where they share a ring; out may lie over q."""

    q: Any
    k: Any
    v: Any
    out: Any
    factors: Any
    inverses: Any
    owners: Any
    barriers: Any
    tmem_address: Any


@dataclass(frozen=True)
class Cta(cta.Cta):
    """Everything that a role's program reads: tensor memory too."""

    tmem: Any = None

    def column(self, name: str, i: Int) -> Any:
        """Returns the tensor memory address of the first column of s, p or o of query tile i."""
        return self.tmem + self.plan.column(name, i)


def allocate_shared(plan: ForwardPlan) -> Shared:
    """Allocates shared memory in the order of the plan's map."""
    types = {"factors": Float32, "inverses": Float32, "barriers": Int64}
    tiles = ("q", "kv", "k", "v", "out")
    arrays: dict[str, Any] = {"owners": None}
    for region in plan.shared:
        dtype = types.get(region.name, Int32)
        alignment = 1024 if region.name in tiles else 16 if region.extent > 16 else 4
        arrays[region.name] = cutlass.Array(dtype, region.extent * 8 // dtype.width, space=SHARED, alignment=alignment)
    k, v = arrays.pop(plan.keys.region), arrays.pop(plan.values.region, None)
    arrays.setdefault("out", arrays["q"])
    return Shared(k=k, v=k if v is None else v, **arrays)


def row_of_thread() -> Any:
    """Returns the row of a query tile that this thread of a warpgroup has: its lane of tensor memory."""
    return warp_index() % 4 * WARP + cute.arch.lane_idx()
