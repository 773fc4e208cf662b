"""The attend role: a warpgroup per query tile multiplies, does the softmax of two rows a thread, and hands its tile out.

The products of a block are issued before the softmax of the next, which runs while they are computed; and warpgroups
issue theirs in turn, so that the tensor core works for one while the other does its softmax.
"""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.cute.nvgpu import warpgroup
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.mask import Columns, mask_scores, visible
from jax_fa4.kernels.rings import FULL_WARP
from jax_fa4.kernels.row_softmax import add_weights, row_maximum, total_of
from jax_fa4.kernels.rows import Row, row_of, store_log_sum_exp
from jax_fa4.kernels.sm90.cta import Cta, warp_index
from jax_fa4.kernels.sm90.hand_out import hand_out
from jax_fa4.kernels.sm90.plan import WARPGROUP
from jax_fa4.kernels.sm90.products import (
    LANES,
    ROUND,
    ROW_PITCH,
    ROWS,
    Products,
    across_row,
    column_of_thread,
    products_of,
    row_of_thread,
)
from jax_fa4.kernels.tile_loop import Int, lesser


@cute.jit
def attend(cta: cutlass.Constexpr):
    """Each warpgroup does its query tile of every tile."""
    walk = cta.walk
    i = warp_index() // WARPGROUP
    products = products_of(cta, i)
    # Of the two rows: references, then totals, of this thread's columns alone.
    state = cute.make_rmem_tensor(2 * ROWS, Float32)
    block, tile_number, visit = Int32(0), Int32(0), Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        tile = walk.tile(index)
        loop = walk.loop(tile)
        first_row = tile.first_row + i * cta.plan.query_rows + row_of_thread()
        rows = [row_of(cta, tile, first_row + ROW_PITCH * r) for r in range(ROWS)]
        blocks = Blocks(cta, products, rows, state)
        blocks.start()
        if loop.count > 0:
            cta.rings.q.of(i).wait_full(tile_number)
            blocks.first(block, loop.key_block(0))
            for step in cutlass.range(1, loop.count, unroll=1):
                blocks.next(block + step, loop.key_block(step))
            if cutlass.const_expr(cta.rings.q.row.empty):
                cta.rings.q.of(i).arrive_empty(tile_number)
            blocks.last(block + loop.count - 1)
            block += loop.count
            tile_number += 1
        inverses = []
        for r in cutlass.range_constexpr(ROWS):
            finished = blocks.finish(r)
            inverses.append(finished.inverse)
            if rows[r].index < walk.problem.rows and cute.arch.lane_idx() % LANES == 0:
                store_log_sum_exp(cta, tile, rows[r], finished.log_sum_exp)
        hand_out(cta, products, i, visit, inverses)
        visit += 1


@dataclass(frozen=True)
class Blocks:
    """A warpgroup's way through the key blocks of a tile."""

    cta: Cta
    products: Products
    rows: list[Row]
    state: Any

    def start(self) -> None:
        """Sets what a tile begins with."""
        self.products.clear_output()
        reference, total = self.cta.softmax.start()
        for r in range(ROWS):
            self.state[r], self.state[ROWS + r] = reference, total

    def first(self, block: Any, key_block: Any) -> None:
        """The scores of the first block, and its weights."""
        rings = self.cta.rings
        rings.k.wait_full(block)
        warpgroup.fence()
        self.products.issue_scores(rings.k.slot(block))
        warpgroup.wait_group(0)
        rings.k.arrive_empty(block)
        weights, _ = self.softmax(key_block, True)
        self.products.set_weights(weights)

    def next(self, block: Any, key_block: Any) -> None:
        """The scores of a block and the values of the one before; the weights of this block."""
        rings = self.cta.rings
        rings.k.wait_full(block)
        warpgroup.fence()
        self.products.issue_scores(rings.k.slot(block))
        rings.v.wait_full(block - 1)
        self.products.issue_values(rings.v.slot(block - 1))
        warpgroup.wait_group(1)
        rings.k.arrive_empty(block)
        weights, factors = self.softmax(key_block, True)
        warpgroup.wait_group(0)
        rings.v.arrive_empty(block - 1)
        self.products.rescale_output(factors)
        self.products.set_weights(weights)

    def last(self, block: Any) -> None:
        """The values of the last block."""
        rings = self.cta.rings
        rings.v.wait_full(block)
        warpgroup.fence()
        self.products.issue_values(rings.v.slot(block))
        warpgroup.wait_group(0)
        rings.v.arrive_empty(block)

    def softmax(self, key_block: Any, masked: bool) -> tuple[list[list[Any]], list[Any]]:
        """Returns the weights of a block by rows, and what was summed before is to be multiplied by."""
        weights, factors = [], []
        for r in range(ROWS):
            scores = self.products.row(self.products.scores, r)
            if masked:
                row = self.rows[r]
                scores = mask_scores(scores, own(visible(row.problem, row.index, key_block * self.cta.plan.block)))
            maximum = across_row(row_maximum(scores), cute.arch.fmax)
            reference, factor = self.cta.softmax.follow(maximum, self.state[r])
            weights.append(self.cta.softmax.weights(scores, reference, 0))
            self.state[r] = reference
            self.state[ROWS + r] = self.state[ROWS + r] * factor + total_of(add_weights([], weights[-1]))
            factors.append(factor)
        return weights, factors

    def finish(self, r: int) -> Any:
        """Returns what a row ends with."""
        total = across_row(self.state[ROWS + r], lambda a, b: a + b)
        return self.cta.softmax.finish(self.state[r], total)


def own(columns: Columns) -> Columns:
    """Returns the limits of columns as limits of this thread's, which are counted from 0."""
    first = column_of_thread()
    start = None if columns.start is None else own_below(columns.start - first)
    return Columns(start, own_below(columns.end - first))


def own_below(limit: Int) -> Int:
    """Returns how many of a thread's columns, 0, 1, 8, 9, 16, ... lie below a limit; below none it may be negative."""
    return (limit >> 3) * 2 + lesser(limit & (ROUND - 1), Int32(2))
