"""The load role: tensor copies of the query tiles, and of keys and values block by block, ahead of the tensor core."""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.sm100.cta import Arrays, Cta
from jax_fa4.kernels.sm100.plan import PANEL_BYTES, QUERY_TILES, TILE
from jax_fa4.kernels.sm100.rings import OpenRing, arrive_once


@cute.jit
def load(cta: cutlass.Constexpr):
    """Order of issue: the first keys, both query tiles, the first values; then keys and values of each block."""
    walk = cta.walk
    keys, values = copies_of(cta.keys), copies_of(cta.values)
    if ptx.elect_sync():
        prefetch_maps(cta.arrays)
    block, tile_number, visit = Int32(0), Int32(0), Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        tile = walk.tile(index)
        loop = walk.loop(tile)
        if cutlass.const_expr(cta.plan.output_over_query):
            await_room(cta, visit)
            visit += 1
        if loop.count > 0:
            key = [walk.key_head(tile), loop.key_block(0) * TILE, tile.batch]
            load_tile(cta, keys, cta.keys.stream.use(block), key)
            for i in cutlass.range_constexpr(QUERY_TILES):
                queries = copies_of_queries(cta, i)
                load_tile(cta, queries, tile_number, [0, *walk.position(tile, i * TILE)])
            load_tile(cta, values, cta.values.stream.use(block), key)
            tile_number += 1
        for step in cutlass.range(1, loop.count, unroll=1):
            key = [walk.key_head(tile), loop.key_block(step) * TILE, tile.batch]
            load_tile(cta, keys, cta.keys.stream.use(block + step), key)
            load_tile(cta, values, cta.values.stream.use(block + step), key)
        block += loop.count


def prefetch_maps(arrays: Arrays) -> None:
    """Fetches the tensor maps early: the first copies would wait for them."""
    for tensor_map in (arrays.q, arrays.k, arrays.v, arrays.out):
        ptx.prefetch_tensormap(tensor_map)


@cute.jit
def await_room(cta: cutlass.Constexpr, visit):
    """Waits until the output of the tile before has left the place of the query tiles."""
    if visit > 0:
        for i in cutlass.range_constexpr(QUERY_TILES):
            room = cta.rings.room.of(i)
            room.wait_full(visit - 1)
            arrive_once(room.empty_barrier(visit - 1))


@dataclass(frozen=True)
class Copies:
    """What is loaded tile by tile: the ring of its slots, its tensor map, its slots in shared memory."""

    ring: OpenRing
    source: Any
    slots: Any
    tile_bytes: int
    slot_bytes: int


def copies_of(tiles: Any) -> Copies:
    """Returns the copies of K or V."""
    return Copies(tiles.ring, tiles.source, tiles.slots, tiles.stream.tile_bytes, tiles.stream.slot_bytes)


def copies_of_queries(cta: Cta, i: int) -> Copies:
    """Returns the copies of query tile i."""
    size = cta.plan.query_bytes
    return Copies(cta.rings.q.of(i), cta.arrays.q, cta.shared.q.subview(i * size // 4), size, size)


@cute.jit
def load_tile(cta: cutlass.Constexpr, copies: cutlass.Constexpr, use, position: cutlass.Constexpr):
    """Loads 128 rows when their slot is free; rows beyond the end of the array come as zeros."""
    copies.ring.wait_empty(use)
    if ptx.elect_sync():
        fill(cta, copies, use, position)


def fill(cta: Cta, copies: Copies, use: Any, position: list[Any]) -> None:
    """Starts the copies, one for each panel, that complete the slot."""
    full = copies.ring.full_barrier(use)
    ptx.mbarrier_arrive_expect_tx(full, copies.tile_bytes)
    for panel in range(copies.tile_bytes // PANEL_BYTES):
        to = copies.slots.subview((copies.ring.slot(use) * copies.slot_bytes + panel * PANEL_BYTES) // 4)
        at = [panel * cta.plan.panel, *position]
        ptx.cp_async_bulk_tensor_shared_cta_global(to, copies.source, at, full)
