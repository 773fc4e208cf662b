"""The load role: tensor copies of the query tiles, and of keys and values block by block, ahead of the tensor core."""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.copies import await_room, copies_of, copies_of_queries, copy_panel, load_tile, prefetch_maps
from jax_fa4.kernels.sm100.cta import Cta
from jax_fa4.kernels.sm100.plan import QUERY_TILES, TILE
from jax_fa4.kernels.sm100.rings import group_of, rank


@cute.jit
def load(cta: cutlass.Constexpr):
    """Order of issue: the first keys, both query tiles, the first values; then keys and values of each block."""
    walk = cta.walk
    own = rank(cta.plan.is_pair)
    keys = copies_of(cta.keys, row=own * cta.plan.key_rows)
    values = copies_of(cta.values, column=own * cta.plan.value_columns)
    copy = copy_of_pair if cta.plan.is_pair else copy_panel
    if ptx.elect_sync():
        prefetch_maps(cta.arrays)
    block, tile_number, visit = Int32(0), Int32(0), Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        tile = walk.tile(index)
        loop = walk.loop(tile)
        if loop.count > 0:
            key = [walk.key_head(tile), loop.key_block(0) * TILE, tile.batch]
            load_tile(keys, cta.keys.stream.use(block), key, copy)
            for i in cutlass.range_constexpr(QUERY_TILES):
                await_room(cta, i, visit)
                load_tile(copies_of_queries(cta, i), tile_number, [0, *walk.position(tile, i * TILE)], copy)
            load_tile(values, cta.values.stream.use(block), key, copy)
            tile_number += 1
        else:
            for i in cutlass.range_constexpr(QUERY_TILES):
                await_room(cta, i, visit)
        visit += 1
        for step in cutlass.range(1, loop.count, unroll=1):
            key = [walk.key_head(tile), loop.key_block(step) * TILE, tile.batch]
            load_tile(keys, cta.keys.stream.use(block + step), key, copy)
            load_tile(values, cta.values.stream.use(block + step), key, copy)
        block += loop.count
    if cutlass.const_expr(cta.plan.is_pair):
        drain(cta, block, tile_number)


def drain(cta: Cta, blocks: Any, tiles: Any) -> None:
    """Waits until all slots have been handed back: the leader must not signal barriers of a CTA that has exited."""
    next_uses = [(cta.rings.q.of(i), tiles) for i in range(QUERY_TILES)]
    next_uses.append((cta.keys.ring, cta.keys.stream.use(blocks)))
    if cta.values.ring is not cta.keys.ring:
        next_uses.append((cta.values.ring, cta.values.stream.use(blocks)))
    for ring, use in next_uses:
        for later in range(ring.row.slots):
            ring.wait_empty(use + later)


def copy_of_pair(to: Any, source: Any, at: list[Any], full: Any) -> None:
    """Copies a panel into this CTA's shared memory; the leader's barrier counts the bytes of both."""
    ptx.cp_async_bulk_tensor_shared_cluster_global(to, source, at, full, [], group=group_of(True))
