"""Turns of the warpgroups: one issues its products while another does its softmax. By named barriers, one a warpgroup.

Without them all would wait for the tensor core together, and then leave it idle together.
"""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.parts import WARP
from jax_fa4.kernels.sm90.plan import WARPGROUP, ForwardPlan

FIRST_BARRIER = 1  # number 0 is that of the whole CTA
THREADS = 2 * WARPGROUP * WARP  # at a barrier: whose turn it will be, and who has had its turn


def take(plan: ForwardPlan, i: Any) -> None:
    """Waits until it is warpgroup i's turn."""
    if plan.takes_turns:
        ptx.barrier_cta_sync_aligned(FIRST_BARRIER + i, thread_count=THREADS)


def give(plan: ForwardPlan, i: Any) -> None:
    """Gives the turn to the warpgroup after i."""
    if plan.takes_turns:
        ptx.barrier_cta_arrive_aligned(FIRST_BARRIER + (i + 1) % plan.query_tiles, THREADS)


def begin(plan: ForwardPlan, i: Any) -> None:
    """The last warpgroup gives the first turn."""
    if plan.takes_turns:
        give_first(plan, i)


def end(plan: ForwardPlan, i: Any) -> None:
    """The first warpgroup takes the turn that is left: a barrier should not end half full."""
    if plan.takes_turns:
        take_last(plan, i)


@cute.jit
def give_first(plan: cutlass.Constexpr, i):
    """As the last, to the first."""
    if i == plan.query_tiles - 1:
        give(plan, i)


@cute.jit
def take_last(plan: cutlass.Constexpr, i):
    """As the first, from the last."""
    if i == 0:
        take(plan, i)
