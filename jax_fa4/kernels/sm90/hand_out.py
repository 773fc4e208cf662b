"""The end of a tile: a warpgroup's output, normalised, rounded, and put where the epilogue role copies it from."""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Vector
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.cta import Cta
from jax_fa4.kernels.parts import WARP
from jax_fa4.kernels.plan import SWIZZLE_ROW
from jax_fa4.kernels.rings import FULL_WARP
from jax_fa4.kernels.sm90.fragments import LANES, ROUND, ROW_PITCH, ROWS, row_of_thread, word_of_pair
from jax_fa4.kernels.sm90.plan import WARPGROUP
from jax_fa4.kernels.sm90.products import Products

FIRST_BARRIER = 4  # of the warpgroups; those of turns.py are below
UNIT = 16  # bytes that the swizzle moves as one


def hand_out(cta: Cta, i: Any, products: Products, visit: Any, inverses: list[Any]) -> None:
    """Gives warpgroup i's output tile, part by part, to the epilogue."""
    plan = cta.plan
    ring = cta.rings.out.of(i)
    columns = plan.output_tile_bytes // plan.panel_bytes * plan.output_panel
    rows = [products.row(products.output, r) for r in range(ROWS)]
    words = words_of_thread(cta, i)
    if plan.output_over_query:
        # All four warps have had their scores: the tensor core has read the queries.
        ptx.barrier_cta_sync_aligned(FIRST_BARRIER + i, thread_count=WARPGROUP * WARP)
    for part in range(plan.output_parts):
        use = visit * plan.output_parts + part
        ring.wait_empty(use)
        for column in range(0, columns, ROUND):
            panel, within = column // plan.output_panel, column % plan.output_panel // ROUND
            for r in range(ROWS):
                first = (part * columns + column) // LANES
                # What fills the last panel is written nowhere.
                pair = rows[r][first : first + 2] or [Float32(0.0)] * 2
                further = panel * plan.panel_bytes + r * ROW_PITCH * SWIZZLE_ROW
                store_pair(cta, words[within], further // 4, [value * inverses[r] for value in pair])
        ptx.fence_proxy("async_shared", space="cta")
        ptx.bar_warp_sync(FULL_WARP)
        ring.arrive_full(use)


def words_of_thread(cta: Cta, i: Any) -> list[Any]:
    """Returns where this thread's two of every eight columns lie in its first row of a panel, as the copy wants them.

    They are few, as panels and rows have constant distances: addresses of all columns would take registers for good.
    """
    plan, row, lane = cta.plan, row_of_thread(), cute.arch.lane_idx() % LANES
    start = (i * plan.output_pitch + row * SWIZZLE_ROW) // 4
    words = []
    for column in range(0, plan.output_panel, ROUND):
        byte = column * plan.output_bytes
        if plan.output:  # four lanes have two units
            unit, rest = Int32(byte // UNIT) + lane // 2, lane % 2 * 2
        else:
            unit, rest = Int32(byte // UNIT), lane
        words.append(start + (unit ^ (row % ROUND)) * (UNIT // 4) + rest)
    return words


def store_pair(cta: Cta, word: Any, further: int, pair: list[Any]) -> None:
    """Writes two neighbouring columns of a row."""
    place = cta.shared.out.subview(further)
    if cta.plan.output:
        place[word:2, cutlass.align(8)] = Vector.from_elements(tuple(pair), Float32).bitcast(Int32)
    else:
        place[word] = word_of_pair(pair[0], pair[1], cta.plan.dtype)
