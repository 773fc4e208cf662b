"""Ring: blocks of keys and values travel from device to device, each device looks at what it holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_fa4.context_parallel.plan import Call, Plan
from jax_fa4.spec import Array

# visit(carry, block, rank of the device whose block it is) -> (carry, gradients of that block; () in a forward pass)
Visit = Callable[[Any, Any, Array], tuple[Any, Any]]


def sweep(call: Call, plan: Plan, block: Any, visit: Visit, carry: Any) -> tuple[Any, Any]:
    """Shows this device the blocks of all devices that matter, its own first, and brings their gradients home.

    With several axes the ring of the last one turns fully while the block that it started from is on its way to the
    next device of the axis before: links between nodes are used once for a turn of the links within.

    Args:
      call: axes and their extents.
      plan: rotations.
      block: this device's keys and values, any pytree of arrays.
      visit: what a device does with a block.
      carry: what visits hand on.

    Returns:
      carry, and the sum of all devices' gradients of this device's block.
    """
    ranks = [lax.axis_index(axis) for axis in call.axes]

    def turn(carry: Any, block: Any, rotation: tuple[Any, ...]) -> tuple[Any, Any]:
        level = len(rotation)
        if level == len(call.axes):
            rank: Any = 0
            for own, size, by in zip(ranks, call.sizes, rotation, strict=True):
                rank = rank * size + (own - by) % size
            return visit(carry, block, rank)
        return _turn(
            call.axes[level],
            call.sizes[level],
            plan.rotations[level],
            block,
            lambda carry, block, by: turn(carry, block, (*rotation, by)),
            carry,
        )

    return turn(carry, block, ())


def _turn(
    axis: str, size: int, rotations: Sequence[int], block: Any, visit: Callable[..., Any], carry: Any
) -> tuple[Any, Any]:
    """One ring: visits the block at each rotation; neighbouring rotations run in a loop, lest programs grow with rings.

    A block is sent on before it is looked at, and the gradients of the last one before those of this one are computed:
    neither waits for the kernels, which can hide both.
    """

    def hop(tree: Any, by: int | None) -> Any:
        if not by or by % size == 0:
            return tree
        route = [(device, (device + by) % size) for device in range(size)]
        return jax.tree.map(lambda array: lax.ppermute(array, axis, route), tree)

    def step(state: Any, rotation: Any, arrived_by: int | None, leaves_by: int | None) -> Any:
        carry, block, sums = state
        following = hop(block, leaves_by)
        if arrived_by is not None:
            sums = hop(sums, arrived_by)
        carry, found = visit(carry, block, rotation)
        sums = found if arrived_by is None else jax.tree.map(jnp.add, sums, found)
        return carry, following, sums

    hops = [later - earlier for earlier, later in itertools.pairwise(rotations)]
    steps = list(zip(rotations, [None, *hops], [*hops, None], strict=True))
    state: Any = (carry, hop(block, rotations[0]), None)
    for is_loop, group in itertools.groupby(steps, lambda one: one[1] == one[2] == 1):
        members = list(group)
        if is_loop and len(members) > 1:
            turns = jnp.asarray([rotation for rotation, _, _ in members], jnp.int32)
            state, _ = lax.scan(lambda state, rotation: (step(state, rotation, 1, 1), None), state, turns)
        else:
            for rotation, arrived_by, leaves_by in members:
                state = step(state, rotation, arrived_by, leaves_by)
    carry, _, sums = state
    return carry, hop(sums, -rotations[-1])
