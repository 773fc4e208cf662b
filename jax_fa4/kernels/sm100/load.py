"""The load role: tensor copies of the query tiles, and of keys and values block by block, ahead of the tensor core."""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.sm100.cta import Arrays, Cta, Tiles
from jax_fa4.kernels.sm100.plan import PANEL_BYTES, QUERY_TILES, TILE
from jax_fa4.kernels.sm100.rings import OpenRing, group_of, rank
from jax_fa4.kernels.tile_loop import Int


@cute.jit
def load(cta: cutlass.Constexpr):
    """Order of issue: the first keys, both query tiles, the first values; then keys and values of each block."""
    walk = cta.walk
    own = rank(cta.plan.is_pair)
    keys = copies_of(cta.keys, row=own * cta.plan.key_rows)
    values = copies_of(cta.values, column=own * cta.plan.value_columns)
    if ptx.elect_sync():
        prefetch_maps(cta.arrays)
    block, tile_number, visit = Int32(0), Int32(0), Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        tile = walk.tile(index)
        loop = walk.loop(tile)
        if loop.count > 0:
            key = [walk.key_head(tile), loop.key_block(0) * TILE, tile.batch]
            load_tile(cta, keys, cta.keys.stream.use(block), key)
            for i in cutlass.range_constexpr(QUERY_TILES):
                await_room(cta, i, visit)
                load_tile(cta, copies_of_queries(cta, i), tile_number, [0, *walk.position(tile, i * TILE)])
            load_tile(cta, values, cta.values.stream.use(block), key)
            tile_number += 1
        else:
            for i in cutlass.range_constexpr(QUERY_TILES):
                await_room(cta, i, visit)
        visit += 1
        for step in cutlass.range(1, loop.count, unroll=1):
            key = [walk.key_head(tile), loop.key_block(step) * TILE, tile.batch]
            load_tile(cta, keys, cta.keys.stream.use(block + step), key)
            load_tile(cta, values, cta.values.stream.use(block + step), key)
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


def prefetch_maps(arrays: Arrays) -> None:
    """Fetches the tensor maps early: the first copies would wait for them."""
    for tensor_map in (arrays.q, arrays.k, arrays.v, arrays.out):
        ptx.prefetch_tensormap(tensor_map)


def await_room(cta: Cta, i: int, visit: Any) -> None:
    """Waits until the output of the tile before has left the place of query tile i, where it has none of its own."""
    if cta.plan.output_over_query:
        take_room(cta.rings.room.of(i), visit)


@cute.jit
def take_room(room: cutlass.Constexpr, visit):
    """The hand-over of a visit but the first."""
    if visit > 0:
        room.wait_full(visit - 1)
        room.arrive_empty(visit - 1)


@dataclass(frozen=True)
class Copies:
    """What is loaded tile by tile: the ring of its slots, its tensor map, its slots in shared memory, their panels.

    row, column: where in a tile the part that this CTA loads begins.
    """

    ring: OpenRing
    source: Any
    slots: Any
    panels: int
    panel_bytes: int
    row: Int = 0
    column: Int = 0


def copies_of(tiles: Tiles, row: Int = 0, column: Int = 0) -> Copies:
    """Returns the copies of K or V."""
    stream = tiles.stream
    return Copies(tiles.ring, tiles.source, tiles.slots, stream.panels, stream.panel_bytes, row, column)


def copies_of_queries(cta: Cta, i: int) -> Copies:
    """Returns the copies of query tile i."""
    size = cta.plan.query_bytes
    ring, slot = cta.rings.q.of(i), cta.shared.q.subview(i * size // 4)
    return Copies(ring, cta.arrays.q, slot, size // PANEL_BYTES, PANEL_BYTES)


@cute.jit
def load_tile(cta: cutlass.Constexpr, copies: cutlass.Constexpr, use, position: cutlass.Constexpr):
    """Loads this CTA's part of 128 rows when its slot is free; rows beyond the end of the array come as zeros."""
    copies.ring.wait_empty(use)
    if ptx.elect_sync():
        fill(cta, copies, use, position)


def fill(cta: Cta, copies: Copies, use: Any, position: list[Any]) -> None:
    """Starts the copies, one for each panel, that complete the slot."""
    full = copies.ring.full_barrier(use)
    size = copies.panels * copies.panel_bytes
    copies.ring.expect(use, size)
    outer, row, *others = position
    for panel in range(copies.panels):
        to = copies.slots.subview((copies.ring.slot(use) * size + panel * copies.panel_bytes) // 4)
        at = [copies.column + panel * cta.plan.panel, outer, copies.row + row, *others]
        if cta.plan.is_pair:  # the leader's barrier counts the bytes of both
            ptx.cp_async_bulk_tensor_shared_cluster_global(to, copies.source, at, full, [], group=group_of(True))
        else:
            ptx.cp_async_bulk_tensor_shared_cta_global(to, copies.source, at, full)
