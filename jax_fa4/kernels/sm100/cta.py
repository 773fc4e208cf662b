"""What the roles of a CTA share: its plan, its memory, the kernel's parameters, and the walk over tiles."""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float16, Float32, Int32, Int64

from jax_fa4.kernels.copies import Tiles
from jax_fa4.kernels.given import Arrays, Scores
from jax_fa4.kernels.parts import WARP
from jax_fa4.kernels.row_softmax import RowSoftmax
from jax_fa4.kernels.sm100.plan import ForwardPlan
from jax_fa4.kernels.sm100.rings import Rings, open_rings
from jax_fa4.kernels.tile_loop import Int, Walk

DTYPES = {"bfloat16": BFloat16, "float16": Float16}
SHARED = cutlass.AddressSpace.smem


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
class Cta:
    """Everything that a role's program reads."""

    plan: ForwardPlan
    shared: Shared
    rings: Rings
    arrays: Arrays
    walk: Walk
    scores: Scores
    tmem: Any = None

    def column(self, name: str, i: Int) -> Any:
        """Returns the tensor memory address of the first column of s, p or o of query tile i."""
        return self.tmem + self.plan.column(name, i)

    @property
    def softmax(self) -> RowSoftmax:
        """How a row's softmax is done; where there are logits of a row's own, these are in units of log2(e)."""
        plan = self.plan
        scale = Float32(1.0) if plan.is_general else self.scores.scale_log2
        return RowSoftmax(scale, plan.rescale_threshold, plan.polynomial, plan.degree)

    @property
    def keys(self) -> Tiles:
        """The tiles of K."""
        return Tiles(self.plan.keys, self.rings.keys, self.shared.k, self.arrays.k)

    @property
    def values(self) -> Tiles:
        """The tiles of V."""
        return Tiles(self.plan.values, self.rings.values, self.shared.v, self.arrays.v)


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


def rings_of(plan: ForwardPlan, shared: Shared) -> Rings:
    """Opens the plan's rings."""
    return open_rings(plan, shared.barriers)


def warp_index() -> Any:
    """Returns the warp's number in the CTA."""
    return cute.arch.make_warp_uniform(cute.arch.warp_idx())


def row_of_thread() -> Any:
    """Returns the row of a query tile that this thread of a warpgroup has: its lane of tensor memory."""
    return warp_index() % 4 * WARP + cute.arch.lane_idx()
