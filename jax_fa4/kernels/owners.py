"""The owners role of general variants: says whose each key is, and clears the values of those that are padding.

A weight of 0 times a value that is NaN would be NaN, and what stands in padding may be anything.
"""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Vector
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.mask import MIXED
from jax_fa4.kernels.parts import WARP
from jax_fa4.kernels.rings import FULL_WARP
from jax_fa4.kernels.tile_loop import Problem, choose

COPY_WORDS = 4


@cute.jit
def watch(cta: cutlass.Constexpr):
    """For each block: the owners for the softmax warps, then the values for the tensor core."""
    walk = cta.walk
    block = Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        tile = walk.tile(index)
        loop = walk.loop(tile)
        problem = walk.problem.entry(tile.batch)
        for step in cutlass.range(0, loop.count, unroll=1):
            owners = tell(cta, Keys(problem, tile.batch, loop.key_block(step) * cta.plan.block), block + step)
            clean(cta, block + step, owners)
        block += loop.count


@dataclass(frozen=True)
class Keys:
    """The keys of a block: of which batch entry, and the first of them."""

    problem: Problem
    batch: Any
    first: Any


def tell(cta: Any, keys: Keys, block: Any) -> list[Any]:
    """Writes the owners of a block's keys into shared memory; returns those of this lane: of every 32nd key."""
    ring = cta.rings.owners
    lane = cute.arch.lane_idx()
    ring.wait_empty(block)
    owners = []
    for j in range(cta.plan.block // WARP):
        column = lane + j * WARP
        owners.append(cta.arrays.optional.key_owner(keys.problem, keys.batch, keys.first + column))
        cta.shared.owners[column] = owners[-1]
    cta.shared.owners[cta.plan.block] = common_owner(owners)
    ptx.bar_warp_sync(FULL_WARP)
    ring.arrive_full(block)
    return owners


def common_owner(owners: list[Any]) -> Any:
    """Returns the owner of all keys of a block, of which each lane has some, or `MIXED`."""
    first = cute.arch.shuffle_sync(owners[0], 0)
    same = owners[0] == first
    for owner in owners[1:]:
        same = same & (owner == first)
    return choose(cute.arch.vote_all_sync(same), first, MIXED)


def clean(cta: Any, block: Any, owners: list[Any]) -> None:
    """Zeroes the values of keys without an owner once they are there, and says so to the tensor core."""
    values = cta.values
    use = values.stream.use(block)
    values.ring.wait_full(use)
    for j, owner in enumerate(owners):
        clear_unless(owner >= 0, cta, values.offset(use), cute.arch.lane_idx() + j * WARP)
    ptx.fence_proxy("async_shared", space="cta")
    ptx.bar_warp_sync(FULL_WARP)
    cta.rings.clean.arrive_full(block)


@cute.jit
def clear_unless(owned, cta: cutlass.Constexpr, tile, row):
    """Zeroes a row that nobody owns."""
    if not owned:
        clear_row(cta, tile, row)


def clear_row(cta: Any, tile: Any, row: Any) -> None:
    """Zeroes one row: those bytes of each panel that the swizzle permutes only among themselves."""
    zeros = Vector.from_elements((Int32(0),) * COPY_WORDS, Int32)
    stream, row_bytes = cta.values.stream, cta.values.stream.row_bytes
    for panel in range(stream.panels):
        first = (tile + panel * stream.panel_bytes + row * row_bytes) // 4
        for word in range(0, row_bytes // 4, COPY_WORDS):
            cta.shared.v[first + word : COPY_WORDS, cutlass.align(4 * COPY_WORDS)] = zeros
