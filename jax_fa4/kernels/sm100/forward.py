"""FlashAttention-4's forward pass for sm_100a: read this file first.

A CTA computes a tile of 256 query rows, as two query tiles of 128 that take turns: while the softmax of one is
computed, the tensor core works for the other. Sixteen warps run the programs of `PROGRAMS`; the plan says which, how
they hand over (its rings) and where things lie (its maps); the walk says which tiles and key blocks they go through.
"""

from typing import Any

import cutlass
import cutlass.cute as cute
import cutlass.experimental.cuda as cuda
from cutlass import Float32, Int32
from cutlass.base_dsl.typing import GridConstant
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.row_softmax import RowSoftmax
from jax_fa4.kernels.sm100.correction import correct
from jax_fa4.kernels.sm100.cta import Arrays, Cta, allocate_shared, rings_of, warp_index
from jax_fa4.kernels.sm100.epilogue import store
from jax_fa4.kernels.sm100.load import load
from jax_fa4.kernels.sm100.mma import multiply
from jax_fa4.kernels.sm100.plan import QUERY_TILES, REGISTERS, TILE, TMEM_COLUMNS, ForwardPlan
from jax_fa4.kernels.sm100.rings import initialise
from jax_fa4.kernels.sm100.softmax import softmax
from jax_fa4.kernels.tile_loop import Band, Problem, Walk

TensorMap: Any = GridConstant[cuda.TensorMap]

PROGRAMS = {
    "softmax": softmax,
    "correction": correct,
    "mma": multiply,
    "epilogue": store,
    "load": load,
    "idle": lambda cta: None,
}


@cute.kernel
def forward(
    query: TensorMap, key: TensorMap, value: TensorMap, output: TensorMap, log_sum_exp: cute.Pointer,
    queries: Int32, keys: Int32, heads: Int32, group: Int32, batch: Int32, section: Int32, low: Int32, high: Int32,
    scale_log2: Float32, plan: cutlass.Constexpr,
):  # fmt: skip
    """The entry; variants.py says what each parameter means."""
    band = Band(low, high) if plan.banded else None
    problem = Problem(queries, keys, heads, batch, band)
    first, _, _ = cute.arch.block_idx()
    stride, _, _ = cute.arch.grid_dim()
    walk = Walk(problem, first, stride, QUERY_TILES * TILE, TILE, section)
    arrays = Arrays(query.get_ptr(), key.get_ptr(), value.get_ptr(), output.get_ptr(), log_sum_exp, group)
    run(plan, walk, arrays, RowSoftmax(scale_log2, plan.rescale_threshold, plan.polynomial, plan.degree))


@cute.jit
def run(plan: cutlass.Constexpr, walk: cutlass.Constexpr, arrays: cutlass.Constexpr, row_softmax: cutlass.Constexpr):
    """Sets the CTA up, lets each warp run its role's program, and gives tensor memory back."""
    warp = warp_index()
    shared = allocate_shared(plan)
    rings = rings_of(plan, shared)
    if warp == plan.role("load").first_warp and ptx.elect_sync():
        initialise(plan, rings)
    if warp == plan.role("mma").first_warp:
        ptx.tcgen05_alloc(shared.tmem_address, TMEM_COLUMNS)
        ptx.tcgen05_relinquish_alloc_permit()
    ptx.barrier_cta_sync_aligned(0)
    cta = Cta(plan, shared, rings, arrays, walk, row_softmax, shared.tmem_address.load())

    for group in plan.register_groups:
        run_group(cta, group, warp)

    ptx.barrier_cta_sync_aligned(0)
    if warp == plan.role("mma").first_warp:
        ptx.tcgen05_dealloc(ptx.make_tmem_ptr(cta.tmem, Int32), TMEM_COLUMNS)


@cute.jit
def run_group(cta: cutlass.Constexpr, group: cutlass.Constexpr, warp):
    """Runs the programs of roles with the same registers, in the warpgroups that are theirs."""
    if warp >= group[0].first_warp and warp < group[-1].first_warp + group[-1].warps:
        set_registers(cta.plan, group[0].registers)
        for role in group:
            run_role(cta, role, warp)


@cute.jit
def run_role(cta: cutlass.Constexpr, role: cutlass.Constexpr, warp):
    """Runs the role's program in its warps."""
    if warp >= role.first_warp and warp < role.first_warp + role.warps:
        PROGRAMS[role.name](cta)


def set_registers(plan: ForwardPlan, registers: int) -> None:
    """Gives registers back, or waits for others to: a thread starts with an even share."""
    if registers > REGISTERS // plan.threads:
        cute.arch.setmaxregister_increase(registers)
    else:
        cute.arch.setmaxregister_decrease(registers)
