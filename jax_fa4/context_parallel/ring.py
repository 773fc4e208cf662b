"""Ring: blocks of keys and values travel from device to device, each device looks at what it holds."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_fa4.context_parallel.balance import chunks_of_device
from jax_fa4.context_parallel.plan import Call, ring_plan
from jax_fa4.spec import Array

# visit(carry, block, position of the first key of each of its chunks) -> (carry, gradients of that block)
Visit = Callable[[Any, Any, Array], tuple[Any, Any]]
# sweep(this device's block, visit, carry) -> (carry, gradients of that block, summed over all devices)
Sweep = Callable[[Any, Visit, Any], tuple[Any, Any]]


def prepare(call: Call, query_chunk: int, key_chunk: int) -> tuple[Sequence[tuple[int, int] | None], Sweep]:
    """Returns Plan.pairs and what shows a device the blocks of all devices that matter, its own first.

    With several axes the ring of the last one turns fully while the block that it started from is on its way to the
    next device of the axis before: links between nodes are used once for a turn of the links within.

    Args:
      call: what is static.
      query_chunk: queries of a chunk.
      key_chunk: keys of a chunk.
    """
    plan = ring_plan(call.sizes, call.layout, query_chunk, key_chunk, call.spec.window, call.offset)
    ranks = [lax.axis_index(axis) for axis in call.axes]

    def turn(rotation: tuple[Any, ...], block: Any, visit: Visit, carry: Any) -> tuple[Any, Any]:
        level = len(rotation)
        if level < len(call.axes):

            def inner(carry: Any, block: Any, by: Any) -> tuple[Any, Any]:
                return turn((*rotation, by), block, visit, carry)

            return _turn(call.axes[level], call.sizes[level], plan.rotations[level], block, inner, carry)
        source: Any = 0
        for rank, size, by in zip(ranks, call.sizes, rotation, strict=True):
            source = source * size + (rank - by) % size
        return visit(carry, block, chunks_of_device(source, call.devices, call.layout) * key_chunk)

    return plan.pairs, functools.partial(turn, ())


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
