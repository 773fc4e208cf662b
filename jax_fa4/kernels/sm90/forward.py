"""FlashAttention's forward pass for sm_90a: read this file first.

A CTA computes a tile of 128 or 192 query rows, 64 a warpgroup. Its warps run the programs of `PROGRAMS`; the plan says
which, how they hand over (its rings) and where things lie (its map); the walk says which tiles and key blocks they go
through.
"""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.cta import Cta, run_role, warp_index
from jax_fa4.kernels.epilogue import store
from jax_fa4.kernels.given import Given, TensorMap
from jax_fa4.kernels.owners import watch
from jax_fa4.kernels.rings import initialise
from jax_fa4.kernels.sm90.attend import attend
from jax_fa4.kernels.sm90.cta import allocate_shared, rings_of
from jax_fa4.kernels.sm90.load import load
from jax_fa4.kernels.sm90.plan import WARPGROUP
from jax_fa4.kernels.tile_loop import Walk

PROGRAMS = {"attend": attend, "load": load, "epilogue": store, "owners": watch}


@cute.kernel
def forward(
    query: TensorMap, key: TensorMap, value: TensorMap, output: TensorMap, others: tuple[Any, ...],
    plan: cutlass.Constexpr,
):  # fmt: skip
    """The entry; variants.py says what each parameter means: `others` are those behind the tensor maps."""
    given = Given(plan, others)
    walk = Walk(given.problem(), 0, 1, plan.rows, plan.block, given["section"], given["group"])
    run(plan, walk, given.arrays(query, key, value, output), given.scores())


@cute.jit
def run(plan: cutlass.Constexpr, walk: cutlass.Constexpr, arrays: cutlass.Constexpr, scores: cutlass.Constexpr):
    """Sets the CTA up, and lets each warp run its role's program."""
    warp = warp_index()
    shared = allocate_shared(plan)
    rings = rings_of(plan, shared)
    if warp == plan.role("load").first_warp and ptx.elect_sync():
        initialise(vars(rings).values())
    ptx.barrier_cta_sync_aligned(0)
    cta = Cta(plan, shared, rings, arrays, walk, scores)
    if warp < WARPGROUP * plan.query_tiles:
        cute.arch.setmaxregister_increase(plan.registers[0])
        run_role(cta, plan.role("attend"), attend, warp)
    else:
        cute.arch.setmaxregister_decrease(plan.registers[1])
        run_others(cta, warp)


def run_others(cta: Cta, warp: Any) -> None:
    """Runs the programs of the warpgroup that does not multiply."""
    for role in cta.plan.roles:
        if role.name not in ("attend", "idle"):
            run_role(cta, role, PROGRAMS[role.name], warp)
