"""What the roles of a CTA share: its plan, its memory, the kernel's parameters, and the walk over tiles."""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float16, Float32, Int32, Uint8

from jax_fa4.kernels.row_softmax import RowSoftmax
from jax_fa4.kernels.sm100.plan import WARP, ForwardPlan
from jax_fa4.kernels.sm100.rings import Rings, barrier_array, open_rings
from jax_fa4.kernels.tile_loop import Int, Walk

DTYPES = {"bfloat16": BFloat16, "float16": Float16}
SHARED = cutlass.AddressSpace.smem


@dataclass(frozen=True)
class Shared:
    """A CTA's shared memory: bytes of q and kv, 32-bit words of out."""

    q: Any
    kv: Any
    out: Any
    factors: Any
    inverses: Any
    barriers: Any
    tmem_address: Any


@dataclass(frozen=True)
class Arrays:
    """The arrays of a launch: tensor maps, a pointer for log-sum-exp; and query heads per key head."""

    q: Any
    k: Any
    v: Any
    out: Any
    log_sum_exp: Any
    group: Any


@dataclass(frozen=True)
class Cta:
    """Everything that a role's program reads."""

    plan: ForwardPlan
    shared: Shared
    rings: Rings
    arrays: Arrays
    walk: Walk
    softmax: RowSoftmax
    tmem: Any = None

    def column(self, name: str, i: Int) -> Any:
        """Returns the tensor memory address of the first column of s, p or o of query tile i."""
        return self.tmem + self.plan.column(name, i)


def allocate_shared(plan: ForwardPlan) -> Shared:
    """Allocates shared memory in the order of the plan's map."""
    sizes = {region.name: region.extent for region in plan.shared}

    def tiles(name: str) -> Any:
        return cutlass.Array(Uint8, sizes[name], space=SHARED, alignment=1024)

    return Shared(
        tiles("q"),
        tiles("kv"),
        cutlass.Array(Int32, sizes["out"] // 4, space=SHARED, alignment=1024),
        cutlass.Array(Float32, sizes["factors"] // 4, space=SHARED, alignment=16),
        cutlass.Array(Float32, sizes["inverses"] // 4, space=SHARED, alignment=16),
        barrier_array(plan),
        cutlass.Array(Int32, 1, space=SHARED, alignment=4),
    )


def rings_of(plan: ForwardPlan, shared: Shared) -> Rings:
    """Opens the plan's rings."""
    return open_rings(plan, shared.barriers)


def warp_index() -> Any:
    """Returns the warp's number in the CTA."""
    return cute.arch.make_warp_uniform(cute.arch.warp_idx())


def row_of_thread() -> Any:
    """Returns the row of a query tile that this thread of a warpgroup has: its lane of tensor memory."""
    return warp_index() % 4 * WARP + cute.arch.lane_idx()
