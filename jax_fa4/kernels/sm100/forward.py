"""FlashAttention-4's forward pass for sm_100a: read this file first.

A CTA computes a tile of 256 query rows, as two query tiles of 128 that take turns: while the softmax of one is
computed, the tensor core works for the other. A pair of CTAs shares keys and values. Sixteen warps run the programs of
`PROGRAMS`; the plan says which, how they hand over (its rings) and where things lie (its maps); the walk says which
tiles and key blocks they go through.
"""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.cta import run_role, warp_index
from jax_fa4.kernels.epilogue import store
from jax_fa4.kernels.given import Given, TensorMap
from jax_fa4.kernels.owners import watch
from jax_fa4.kernels.plan import REGISTERS
from jax_fa4.kernels.rings import initialise
from jax_fa4.kernels.sm100.correction import correct
from jax_fa4.kernels.sm100.cta import Cta, allocate_shared
from jax_fa4.kernels.sm100.load import load
from jax_fa4.kernels.sm100.mma import multiply
from jax_fa4.kernels.sm100.plan import CTA_ROWS, TILE, TMEM_COLUMNS, ForwardPlan
from jax_fa4.kernels.sm100.rings import group_of, open_rings
from jax_fa4.kernels.sm100.softmax import softmax
from jax_fa4.kernels.tile_loop import Walk

PROGRAMS = {
    "softmax": softmax,
    "correction": correct,
    "mma": multiply,
    "epilogue": store,
    "load": load,
    "owners": watch,
    "idle": lambda cta: None,
}


@cute.kernel
def forward(
    query: TensorMap, key: TensorMap, value: TensorMap, output: TensorMap, others: tuple[Any, ...],
    plan: cutlass.Constexpr,
):  # fmt: skip
    """The entry; variants.py says what each parameter means: `others` are those behind the tensor maps."""
    given = Given(plan, others)
    walk = Walk(given.problem(), 0, 1, plan.ctas * CTA_ROWS, TILE, given["section"], given["group"])
    run(plan, walk, given.arrays(query, key, value, output), given.scores())


@cute.jit
def run(plan: cutlass.Constexpr, walk: cutlass.Constexpr, arrays: cutlass.Constexpr, scores: cutlass.Constexpr):
    """Sets the CTA up, lets each warp run its role's program, and gives tensor memory back."""
    warp = warp_index()
    shared = allocate_shared(plan)
    rings = open_rings(plan, shared.barriers)
    if warp == plan.role("load").first_warp and ptx.elect_sync():
        initialise(vars(rings).values())
    if cutlass.const_expr(plan.is_pair):
        meet(plan)  # a pair allocates together, and signals barriers of the other
    if warp == plan.role("mma").first_warp:
        ptx.tcgen05_alloc(shared.tmem_address, TMEM_COLUMNS, group=group_of(plan.is_pair))
        ptx.tcgen05_relinquish_alloc_permit(group=group_of(plan.is_pair))
    ptx.barrier_cta_sync_aligned(0)
    cta = Cta(plan, shared, rings, arrays, walk, scores, shared.tmem_address.load())

    for group in plan.register_groups:
        run_group(cta, group, warp)

    meet(plan)
    if warp == plan.role("mma").first_warp:
        ptx.tcgen05_dealloc(ptx.make_tmem_ptr(cta.tmem, Int32), TMEM_COLUMNS, group=group_of(plan.is_pair))


def meet(plan: ForwardPlan) -> None:
    """All threads of the CTA, or of both of a pair, wait for each other."""
    if plan.is_pair:
        ptx.barrier_cluster_arrive_aligned()
        ptx.barrier_cluster_wait_aligned()
    else:
        ptx.barrier_cta_sync_aligned(0)


@cute.jit
def run_group(cta: cutlass.Constexpr, group: cutlass.Constexpr, warp):
    """Runs the programs of roles with the same registers, in the warpgroups that are theirs."""
    if warp >= group[0].first_warp and warp < group[-1].first_warp + group[-1].warps:
        set_registers(cta.plan, group[0].registers)
        for role in group:
            run_role(cta, role, PROGRAMS[role.name], warp)


def set_registers(plan: ForwardPlan, registers: int) -> None:
    """Gives registers back, or waits for others to: a thread starts with an even share."""
    if registers > REGISTERS // plan.threads:
        cute.arch.setmaxregister_increase(registers)
    else:
        cute.arch.setmaxregister_decrease(registers)
