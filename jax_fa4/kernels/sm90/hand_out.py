"""The end of a tile: a warpgroup's output, normalised, rounded, and put where the epilogue role copies it from."""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Vector
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.parts import WARP
from jax_fa4.kernels.rings import FULL_WARP
from jax_fa4.kernels.sm90.cta import Cta
from jax_fa4.kernels.sm90.fragments import LANES, ROUND, ROW_PITCH, ROWS, row_of_thread, word_of_pair
from jax_fa4.kernels.sm90.plan import SWIZZLE_ROW, WARPGROUP
from jax_fa4.kernels.sm90.products import Products

FIRST_BARRIER = 4  # of the warpgroups; those of turns.py are below
UNIT = 16  # bytes that the swizzle moves as one


def hand_out(cta: Cta, products: Products, visit: Any, inverses: list[Any]) -> None:
    """Gives a warpgroup's output tile, part by part, to the epilogue."""
    plan, i = cta.plan, products.i
    ring = cta.rings.out.of(i)
    columns = plan.output_tile_bytes // plan.output_panel_bytes * plan.output_panel
    rows = [products.row(products.output, r) for r in range(ROWS)]
    if plan.output_over_query:
        # All four warps have had their scores: the tensor core has read the queries.
        ptx.barrier_cta_sync_aligned(FIRST_BARRIER + i, thread_count=WARPGROUP * WARP)
    for part in range(plan.output_parts):
        use = visit * plan.output_parts + part
        ring.wait_empty(use)
        for column in range(part * columns, (part + 1) * columns, ROUND):
            for r in range(ROWS):
                first = column // LANES
                # What fills the last panel is written nowhere.
                pair = rows[r][first : first + 2] or [Float32(0.0)] * 2
                store_pair(cta, i, r, column % columns, [value * inverses[r] for value in pair])
        ptx.fence_proxy("async_shared", space="cta")
        ptx.bar_warp_sync(FULL_WARP)
        ring.arrive_full(use)


def store_pair(cta: Cta, i: Any, r: int, column: int, pair: list[Any]) -> None:
    """Writes this thread's two of eight columns of a row where the swizzle of the copy wants them."""
    plan, row, lane = cta.plan, row_of_thread() + r * ROW_PITCH, cute.arch.lane_idx() % LANES
    within = column % plan.output_panel * plan.output_bytes
    at = i * plan.output_pitch + column // plan.output_panel * plan.output_panel_bytes + row * SWIZZLE_ROW
    if plan.output:
        unit = Int32(within // UNIT) + lane // 2
        word = (at + (unit ^ (row % ROUND)) * UNIT) // 4 + lane % 2 * 2
        cta.shared.out[word:2, cutlass.align(8)] = Vector.from_elements(tuple(pair), Float32).bitcast(Int32)
    else:
        word = (at + (Int32(within // UNIT) ^ (row % ROUND)) * UNIT) // 4 + lane
        cta.shared.out[word] = word_of_pair(*pair, plan.dtype)
