"""The correction role: keeps the accumulators in tensor memory in step with the rows' references, and finishes them."""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Vector
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.plan import ATOM_ROWS, SWIZZLE_ROW
from jax_fa4.kernels.rings import FULL_WARP
from jax_fa4.kernels.row_softmax import scaled
from jax_fa4.kernels.sm100 import tmem
from jax_fa4.kernels.sm100.cta import Cta, row_of_thread
from jax_fa4.kernels.sm100.plan import PANEL_BYTES, QUERY_TILES, TILE

CHUNK = 32  # columns in registers at a time
COPY_BYTES = 16  # what the swizzle moves as one


@cute.jit
def correct(cta: cutlass.Constexpr):
    """For each block: rescale where a row asks for it, then let the tensor core add. At last: normalise and store."""
    walk, rings = cta.walk, cta.rings
    block, tile_number, visit = Int32(0), Int32(0), Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        loop = walk.loop(walk.tile(index))
        for step in cutlass.range(0, loop.count, unroll=1):
            for i in cutlass.range_constexpr(QUERY_TILES):
                rings.factor.of(i).wait_full(block + step)
                factor = cta.shared.factors[i * TILE + row_of_thread()]
                # There is no accumulator before the first block: that of the tile before has been read out.
                if step > 0 and cute.arch.vote_any_sync(factor < 1.0):
                    rescale(cta, i, factor)
                # The arrival also says that all lanes have read their factors.
                ptx.bar_warp_sync(FULL_WARP)
                rings.p.of(i).arrive_full(0)
        for i in cutlass.range_constexpr(QUERY_TILES):
            if loop.count > 0:
                rings.inverse.of(i).wait_full(tile_number)
                inverse = cta.shared.inverses[i * TILE + row_of_thread()]
                ptx.bar_warp_sync(FULL_WARP)
                rings.inverse.of(i).arrive_empty(0)
                rings.o.of(i).wait_full(tile_number)
                hand_out(cta, i, visit, inverse)
            else:
                hand_out(cta, i, visit, None)
        visit += 1
        if loop.count > 0:
            block += loop.count
            tile_number += 1


def rescale(cta: Cta, i: int, factor: Any) -> None:
    """Multiplies this thread's row of accumulator i."""
    ptx.tcgen05_fence("after_thread_sync")
    for first in range(0, cta.plan.value_head_dim, CHUNK):
        column = cta.column("o", i) + first
        tmem.store_words(column, tmem.words_of_floats(scaled(tmem.load_columns(column, CHUNK), factor)))
    tmem.finish_stores()


def hand_out(cta: Cta, i: int, visit: Any, inverse: Any) -> None:
    """Gives this thread's row of the output, part by part, to the epilogue; zeros where `inverse` is None."""
    plan, ring = cta.plan, cta.rings.out.of(i)
    columns = plan.output_tile_bytes // PANEL_BYTES * plan.output_panel
    for part in range(plan.output_parts):
        use = visit * plan.output_parts + part
        ring.wait_empty(use)
        for first in range(part * columns, (part + 1) * columns, CHUNK):
            store_row(cta, i, first, output_words(cta, i, first, inverse))
        ptx.fence_proxy("async_shared", space="cta")
        ptx.bar_warp_sync(FULL_WARP)
        ring.arrive_full(use)


def output_words(cta: Cta, i: int, first: int, inverse: Any) -> list[Any]:
    """Returns columns of this thread's row, normalised and rounded, as 32-bit words."""
    plan = cta.plan
    if inverse is None or first >= plan.value_head_dim:  # what fills the last panel is written nowhere
        return [Int32(0)] * (CHUNK * plan.output_bytes // 4)
    ptx.tcgen05_fence("after_thread_sync")
    values = scaled(tmem.load_columns(cta.column("o", i) + first, CHUNK), inverse)
    ptx.tcgen05_fence("before_thread_sync")
    return tmem.words_of_floats(values) if plan.output else tmem.words_of_pairs(values, plan.dtype)


def store_row(cta: Cta, i: int, first: int, words: list[Any]) -> None:
    """Writes consecutive columns of this thread's row, 16 bytes at a time, where the swizzle of the copy wants them."""
    plan, row = cta.plan, row_of_thread()
    panels = plan.output_tile_bytes // PANEL_BYTES
    for j in range(0, len(words), COPY_BYTES // 4):
        column = first + j * 4 // plan.output_bytes
        unit = column % plan.output_panel * plan.output_bytes // COPY_BYTES
        in_panel = row * SWIZZLE_ROW + (Int32(unit) ^ (row % ATOM_ROWS)) * COPY_BYTES
        at = i * plan.output_pitch + column // plan.output_panel % panels * PANEL_BYTES + in_panel
        cta.shared.out[at // 4 : 4, cutlass.align(COPY_BYTES)] = Vector.from_elements(tuple(words[j : j + 4]), Int32)
