"""The load role: tensor copies of the query tiles, and of keys and values block by block, ahead of the tensor core."""

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.copies import await_room, copies_of, copies_of_queries, load_tile, prefetch_maps


@cute.jit
def load(cta: cutlass.Constexpr):
    """Order of issue, which is that of use: the first keys, the queries; then the next keys before a block's values."""
    walk, plan = cta.walk, cta.plan
    keys, values = copies_of(cta.keys), copies_of(cta.values)
    if ptx.elect_sync():
        prefetch_maps(cta.arrays)
    block, tile_number, visit = Int32(0), Int32(0), Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        tile = walk.tile(index)
        loop = walk.loop(tile)
        head = walk.key_head(tile)
        if loop.count > 0:
            load_tile(keys, block, [head, loop.key_block(0) * plan.block, tile.batch])
        for i in cutlass.range_constexpr(plan.query_tiles):
            await_room(cta, i, visit)
            if loop.count > 0:
                load_tile(
                    copies_of_queries(cta, i), tile_number, [0, *walk.position(tile, i * plan.query_rows)]
                )  # fmt: skip
        visit += 1
        for step in cutlass.range(1, loop.count, unroll=1):
            load_tile(keys, block + step, [head, loop.key_block(step) * plan.block, tile.batch])
            load_tile(values, block + step - 1, [head, loop.key_block(step - 1) * plan.block, tile.batch])
        if loop.count > 0:
            last = loop.count - 1
            load_tile(values, block + last, [head, loop.key_block(last) * plan.block, tile.batch])
            block += loop.count
            tile_number += 1
