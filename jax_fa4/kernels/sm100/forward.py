"""FlashAttention-4's forward pass for sm_100a: read this file first.

A CTA computes a tile of 256 query rows, as two query tiles of 128 that take turns: while the softmax of one is
computed, the tensor core works for the other. A pair of CTAs shares keys and values. Sixteen warps run the programs of
`PROGRAMS`; the plan says which, how they hand over (its rings) and where things lie (its maps); the walk says which
tiles and key blocks they go through.
"""

import dataclasses
from typing import Any

import cutlass
import cutlass.cute as cute
import cutlass.experimental.cuda as cuda
from cutlass import Float32, Int32
from cutlass.base_dsl.typing import GridConstant
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.optional import Offsets, Optional, OptionalArray
from jax_fa4.kernels.row_softmax import LOG2_E
from jax_fa4.kernels.sm100.correction import correct
from jax_fa4.kernels.sm100.cta import Arrays, Cta, Scores, allocate_shared, rings_of, warp_index
from jax_fa4.kernels.sm100.epilogue import store
from jax_fa4.kernels.sm100.load import load
from jax_fa4.kernels.sm100.mma import multiply
from jax_fa4.kernels.sm100.owners import watch
from jax_fa4.kernels.sm100.plan import CTA_ROWS, REGISTERS, TILE, TMEM_COLUMNS, ForwardPlan
from jax_fa4.kernels.sm100.rings import group_of, initialise, rank
from jax_fa4.kernels.sm100.softmax import softmax
from jax_fa4.kernels.tile_loop import Band, Each, Problem, Walk
from jax_fa4.kernels.variants import plain_parameters

TensorMap: Any = GridConstant[cuda.TensorMap]

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
    optional = given.optional() if plan.is_general else None
    arrays = Arrays(
        query.get_ptr(), key.get_ptr(), value.get_ptr(), output.get_ptr(), given["log_sum_exp"], optional
    )  # fmt: skip
    run(plan, walk, arrays, given.scores())


class Given:
    """The parameters of a launch by their names."""

    def __init__(self, plan: ForwardPlan, values: tuple[Any, ...]) -> None:
        self.plan = plan
        names = [parameter.name for parameter in plain_parameters(plan)]
        self.values = dict(zip(names, values, strict=True))

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def problem(self) -> Problem:
        """Returns the extents of the launch."""
        band = Band(self["low"], self["high"]) if "low" in self.values else None
        each: Each | None = None
        if self.plan.kind == "banded":
            each = Offsets(self.array("query_offset"))
        elif self.plan.is_general:
            each = self.optional()
        return Problem(
            self["queries"], self["keys"], self["heads"], self["batch"], band, self["pack_shift"], each
        )  # fmt: skip

    def optional(self) -> Optional:
        """Returns the arrays of a general variant."""
        return Optional(*(self.array(field.name) for field in dataclasses.fields(Optional)))

    def array(self, name: str) -> OptionalArray:
        """Returns an array that may be absent."""
        return OptionalArray(self[name], self[f"{name}_stride"], self.values.get(f"{name}_dtype"))

    def scores(self) -> Scores:
        """Returns what scores are multiplied by and limited to."""
        cap = self.values.get("logits_soft_cap")
        return Scores(self["scale_log2"], None if cap is None else cap * Float32(LOG2_E))


@cute.jit
def run(plan: cutlass.Constexpr, walk: cutlass.Constexpr, arrays: cutlass.Constexpr, scores: cutlass.Constexpr):
    """Sets the CTA up, lets each warp run its role's program, and gives tensor memory back."""
    warp = warp_index()
    shared = allocate_shared(plan)
    rings = rings_of(plan, shared)
    if warp == plan.role("load").first_warp and ptx.elect_sync():
        initialise(rings)
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
            run_role(cta, role, warp)


@cute.jit
def run_role(cta: cutlass.Constexpr, role: cutlass.Constexpr, warp):
    """Runs the role's program in its warps."""
    if warp >= role.first_warp and warp < role.first_warp + role.warps:
        PROGRAMS[role.name](dataclasses.replace(cta, walk=own_walk(cta.plan, cta.walk)))


def own_walk(plan: ForwardPlan, walk: Walk) -> Walk:
    """Returns the walk over this CTA's tiles. Asked for in each role: a value for all of them would be spilled."""
    block, _, _ = cute.arch.block_idx()
    blocks, _, _ = cute.arch.grid_dim()
    own = rank(plan.is_pair) * CTA_ROWS
    return dataclasses.replace(walk, first=block // plan.ctas, stride=blocks // plan.ctas, own=own)


def set_registers(plan: ForwardPlan, registers: int) -> None:
    """Gives registers back, or waits for others to: a thread starts with an even share."""
    if registers > REGISTERS // plan.threads:
        cute.arch.setmaxregister_increase(registers)
    else:
        cute.arch.setmaxregister_decrease(registers)
