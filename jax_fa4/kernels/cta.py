"""What the roles of a CTA share on any GPU: its plan, its memory, the kernel's parameters, its walk over tiles."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float16, Float32

from jax_fa4.kernels.copies import Tiles
from jax_fa4.kernels.given import Arrays, Scores
from jax_fa4.kernels.row_softmax import RowSoftmax
from jax_fa4.kernels.tile_loop import Walk

DTYPES = {"bfloat16": BFloat16, "float16": Float16}
SHARED = cutlass.AddressSpace.smem


@dataclass(frozen=True)
class Cta:
    """Everything that a role's program reads. What lies in shared memory, and the rings, differ by architecture."""

    plan: Any
    shared: Any
    rings: Any
    arrays: Arrays
    walk: Walk
    scores: Scores

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


def warp_index() -> Any:
    """Returns the warp's number in the CTA."""
    return cute.arch.make_warp_uniform(cute.arch.warp_idx())


@cute.jit
def run_role(cta: cutlass.Constexpr, role: cutlass.Constexpr, program: cutlass.Constexpr, warp):
    """Runs a role's program in its warps."""
    if warp >= role.first_warp and warp < role.first_warp + role.warps:
        program(dataclasses.replace(cta, walk=own_walk(cta)))


def own_walk(cta: Cta) -> Walk:
    """Returns the walk over this CTA's tiles. Asked for in each role: a value for all of them would be spilled."""
    plan = cta.plan
    block, _, _ = cute.arch.block_idx()
    blocks, _, _ = cute.arch.grid_dim()
    own = block % plan.ctas * plan.rows if plan.ctas > 1 else 0
    return dataclasses.replace(cta.walk, first=block // plan.ctas, stride=blocks // plan.ctas, own=own)
