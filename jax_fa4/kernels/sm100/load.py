"""The load role: tensor copies of the query tiles, and of keys and values block by block, ahead of the tensor core."""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.sm100.cta import Arrays, Cta
from jax_fa4.kernels.sm100.plan import QUERY_TILES, TILE
from jax_fa4.kernels.sm100.rings import OpenRing


@cute.jit
def load(cta: cutlass.Constexpr):
    """Order of issue: the first keys, both query tiles, the first values; then keys and values of each block."""
    walk, arrays, shared = cta.walk, cta.arrays, cta.shared
    keys, values = Stream(cta.rings.kv, arrays.k, shared.kv), Stream(cta.rings.kv, arrays.v, shared.kv)
    if ptx.elect_sync():
        prefetch_maps(arrays)
    kv_use, tile_number = Int32(0), Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        tile = walk.tile(index)
        loop = walk.loop(tile)
        kv_head = tile.head // arrays.group
        if loop.count > 0:
            key = [kv_head, loop.key_block(0) * TILE, tile.batch]
            load_tile(cta, keys, kv_use, key)
            for i in cutlass.range_constexpr(QUERY_TILES):
                query = [tile.head, tile.first_row + i * TILE, tile.batch]
                queries = Stream(cta.rings.q.of(i), arrays.q, shared.q.subview(i * cta.plan.tile_bytes))
                load_tile(cta, queries, tile_number, query)
            load_tile(cta, values, kv_use + 1, key)
            tile_number += 1
        for step in cutlass.range(1, loop.count, unroll=1):
            key = [kv_head, loop.key_block(step) * TILE, tile.batch]
            load_tile(cta, keys, kv_use + 2 * step, key)
            load_tile(cta, values, kv_use + 2 * step + 1, key)
        kv_use += 2 * loop.count


def prefetch_maps(arrays: Arrays) -> None:
    """Fetches the tensor maps early: the first copies would wait for them."""
    for tensor_map in (arrays.q, arrays.k, arrays.v, arrays.out):
        ptx.prefetch_tensormap(tensor_map)


@dataclass(frozen=True)
class Stream:
    """What is loaded tile by tile: the ring of its slots, its tensor map, its slots in shared memory."""

    ring: OpenRing
    source: Any
    target: Any


@cute.jit
def load_tile(cta: cutlass.Constexpr, stream: cutlass.Constexpr, use, position: cutlass.Constexpr):
    """Loads 128 rows when their slot is free; rows beyond the end of the array come as zeros."""
    stream.ring.wait_empty(use)
    if ptx.elect_sync():
        fill(cta, stream, use, position)


def fill(cta: Cta, stream: Stream, use: Any, position: list[Any]) -> None:
    """Starts the copies, one for each panel, that complete the slot."""
    plan, full = cta.plan, stream.ring.full_barrier(use)
    ptx.mbarrier_arrive_expect_tx(full, plan.tile_bytes)
    for panel in range(plan.panels):
        to = stream.target.subview(stream.ring.slot(use) * plan.tile_bytes + panel * plan.panel_bytes)
        at = [panel * plan.panel, *position]
        ptx.cp_async_bulk_tensor_shared_cta_global(to, stream.source, at, full)
