"""The attend role: a warpgroup per query tile multiplies, does the softmax of two rows a thread, hands its tile out.

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

from jax_fa4.kernels.cta import Cta, warp_index
from jax_fa4.kernels.mask import Owners, mask_general, mask_scores, visible
from jax_fa4.kernels.rings import FULL_WARP
from jax_fa4.kernels.row_softmax import Finished, add_weights, row_maximum, total_of
from jax_fa4.kernels.rows import Row, row_of, store_log_sum_exp
from jax_fa4.kernels.sm90 import turns
from jax_fa4.kernels.sm90.fragments import (
    LANES,
    ROW_PITCH,
    ROWS,
    across_row,
    column_of_thread,
    columns_of,
    limits_of_thread,
    row_of_thread,
)
from jax_fa4.kernels.sm90.hand_out import hand_out
from jax_fa4.kernels.sm90.plan import WARPGROUP
from jax_fa4.kernels.sm90.products import Products, products_of, rescale
from jax_fa4.kernels.tile_loop import Tile, greater


@cute.jit
def attend(cta: cutlass.Constexpr):
    """Each warpgroup does its query tile of every tile: blocks that need a mask, whole ones, the last values."""
    walk = cta.walk
    i = warp_index() // WARPGROUP
    products = products_of(cta, i)
    state = cute.make_rmem_tensor(2 * ROWS, Float32)
    turns.begin(cta.plan, i)
    block, tile_number, visit = Int32(0), Int32(0), Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        tile = walk.tile(index)
        loop = walk.loop(tile)
        blocks = Blocks(cta, i, products, rows_of(cta, tile, i), state)
        blocks.start()
        if loop.count > 0:
            cta.rings.q.of(i).wait_full(tile_number)
            blocks.first(block, loop.key_block(0))
            # The first block always has its mask, and in dense variants no other needs one.
            if cutlass.const_expr(cta.plan.kind != "dense"):
                for step in cutlass.range(1, loop.masked, unroll=1):
                    blocks.next(block + step, loop.key_block(step), True)
            if cutlass.const_expr(cta.plan.kind != "general"):
                for step in cutlass.range(greater(loop.masked, Int32(1)), loop.count, unroll=1):
                    blocks.next(block + step, loop.key_block(step), False)
            if cutlass.const_expr(cta.rings.q.row.empty):
                cta.rings.q.of(i).arrive_empty(tile_number)
            blocks.last(block + loop.count - 1)
            block += loop.count
            tile_number += 1
        finished = [blocks.finish(tile, r) for r in range(ROWS)]
        for r in cutlass.range_constexpr(ROWS):
            if blocks.rows[r].index < walk.problem.rows and cute.arch.lane_idx() % LANES == 0:
                store_log_sum_exp(cta, tile, blocks.rows[r], finished[r].log_sum_exp)
        hand_out(cta, i, products, visit, [row.inverse for row in finished])
        visit += 1
    turns.end(cta.plan, i)


def rows_of(cta: Cta, tile: Tile, i: Any) -> list[Row]:
    """Returns this thread's rows of query tile i."""
    first = tile.first_row + i * cta.plan.query_rows + row_of_thread()
    return [row_of(cta, tile, first + ROW_PITCH * r) for r in range(ROWS)]


@dataclass(frozen=True)
class Blocks:
    """Warpgroup i's way through the key blocks of a tile.

    state: of both rows the references, then the totals, which are of this thread's columns alone.
    block: the number of a block among this CTA's; key_block: among the keys.
    """

    cta: Cta
    i: Any
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
        rings.keys.wait_full(block)
        warpgroup.fence()
        self.products.issue_scores(rings.keys.slot(block))
        warpgroup.wait_group(0)
        rings.keys.arrive_empty(block)
        weights, _ = self.softmax(block, key_block, True)
        self.products.set_weights(weights)

    def next(self, block: Any, key_block: Any, masked: bool) -> None:
        """The scores of a block and the values of the one before; then the weights of this block."""
        plan, rings, products = self.cta.plan, self.cta.rings, self.products
        rings.keys.wait_full(block)
        turns.take(plan, self.i)
        warpgroup.fence()
        products.issue_scores(rings.keys.slot(block))
        self.await_values(block - 1)
        products.issue_values(rings.values.slot(block - 1))
        turns.give(plan, self.i)
        warpgroup.wait_group(1)
        rings.keys.arrive_empty(block)
        weights, factors = self.softmax(block, key_block, masked)
        rescale(products, *factors)
        warpgroup.wait_group(0)
        rings.values.arrive_empty(block - 1)
        products.set_weights(weights)

    def last(self, block: Any) -> None:
        """The values of the last block."""
        rings = self.cta.rings
        self.await_values(block)
        warpgroup.fence()
        self.products.issue_values(rings.values.slot(block))
        warpgroup.wait_group(0)
        rings.values.arrive_empty(block)

    def await_values(self, block: Any) -> None:
        """Waits for the values of a block, without padding where there may be some."""
        self.cta.rings.values.wait_full(block)
        if self.cta.rings.clean is not None:
            self.cta.rings.clean.wait_full(block)

    def softmax(self, block: Any, key_block: Any, masked: bool) -> tuple[list[list[Any]], list[Any]]:
        """Returns the weights of a block by rows, and what was summed before is to be multiplied by."""
        weights, factors = [], []
        scores = self.scores(block, key_block * self.cta.plan.block, masked)
        for r in range(ROWS):
            maximum = across_row(row_maximum(scores[r]), cute.arch.fmax)
            reference, factor = self.cta.softmax.follow(maximum, self.state[r])
            weights.append(self.cta.softmax.weights(scores[r], reference, 0))
            self.state[r] = reference
            self.state[ROWS + r] = self.state[ROWS + r] * factor + total_of(add_weights([], weights[r]))
            factors.append(factor)
        return weights, factors

    def scores(self, block: Any, first_key: Any, masked: bool) -> list[list[Any]]:
        """Returns what a block's keys score in both rows."""
        rows = [self.products.row(self.products.scores, r) for r in range(ROWS)]
        if self.cta.plan.is_general:
            return self.general_scores(rows, block, first_key)
        if not masked:
            return rows
        return [mask_scores(rows[r], limits_of_thread(self.columns(r, first_key))) for r in range(ROWS)]

    def general_scores(self, rows: list[list[Any]], block: Any, first_key: Any) -> list[list[Any]]:
        """Returns the logits of a block's keys in both rows, masked."""
        ring = self.cta.rings.owners
        ring.wait_full(block)
        owners = Owners(self.owners, self.cta.shared.owners[self.cta.plan.block])
        result = []
        for row, scores, r in zip(self.rows, rows, range(ROWS), strict=True):
            logits = row.logits.of(scores, first_key + column_of_thread(), columns_of(len(scores)))
            limits = limits_of_thread(self.columns(r, first_key))
            result.append(mask_general(logits, limits, owners, row.owner))
        ptx.bar_warp_sync(FULL_WARP)
        ring.arrive_empty(block)
        return result

    def columns(self, r: int, first_key: Any) -> Any:
        """Returns the columns of a block that a row sees."""
        return visible(self.rows[r].problem, self.rows[r].index, first_key)

    def owners(self) -> list[Any]:
        """Returns whose the keys of this thread's columns are."""
        array, first = self.cta.shared.owners, column_of_thread()
        pairs = [array[first + column : 2, cutlass.align(8)] for column in range(0, self.cta.plan.block, 8)]
        return [pair[j] for pair in pairs for j in range(2)]

    def finish(self, tile: Tile, r: int) -> Finished:
        """Returns what a row ends with."""
        softmax, optional = self.cta.softmax, self.cta.arrays.optional
        total = across_row(self.state[ROWS + r], lambda a, b: a + b)
        if optional is None:
            return softmax.finish(self.state[r], total)
        # Read now: in all blocks before, it would take a register.
        sink = optional.sink_log2(tile.batch, self.rows[r].head)
        return softmax.finish_with_sink(self.state[r], total, sink)
