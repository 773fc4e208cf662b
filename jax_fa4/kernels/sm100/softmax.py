"""The softmax role: a warpgroup per query tile and a thread per row, scores to weights in tensor memory."""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.cta import warp_index
from jax_fa4.kernels.mask import Owners, mask_general, mask_scores, visible
from jax_fa4.kernels.rings import FULL_WARP, OpenRing
from jax_fa4.kernels.row_softmax import Finished, add_weights, row_maximum, total_of
from jax_fa4.kernels.rows import Row, row_of, store_log_sum_exp
from jax_fa4.kernels.sm100 import tmem
from jax_fa4.kernels.sm100.cta import Cta, row_of_thread
from jax_fa4.kernels.sm100.plan import P_PARTS, TILE
from jax_fa4.kernels.tile_loop import Tile

VECTOR = 4  # owners that one load takes


@cute.jit
def softmax(cta: cutlass.Constexpr):
    """Each warpgroup does its query tile of every tile: blocks that need a mask, whole ones, the last factor."""
    walk = cta.walk
    i = warp_index() // 4
    block, tile_number = Int32(0), Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        tile = walk.tile(index)
        loop = walk.loop(tile)
        row = row_of(cta, tile, tile.first_row + i * TILE + row_of_thread())
        rows = SoftmaxRows(cta, i, row)
        reference, total = cta.softmax.start()
        for step in cutlass.range(0, loop.masked, unroll=1):
            reference, total = rows.block(block + step, loop.key_block(step), (reference, total), True)
        if cutlass.const_expr(not cta.plan.is_general):
            for step in cutlass.range(loop.masked, loop.count, unroll=1):
                reference, total = rows.block(block + step, loop.key_block(step), (reference, total), False)
        finished = rows.finish(tile, reference, total)
        if loop.count > 0:
            cta.rings.inverse.of(i).wait_empty(tile_number)
            rows.send(cta.shared.inverses, cta.rings.inverse, finished.inverse)
            block += loop.count
            tile_number += 1
        if row.index < walk.problem.rows:
            store_log_sum_exp(cta, tile, row, finished.log_sum_exp)


@dataclass(frozen=True)
class SoftmaxRows:
    """The warpgroup of query tile i, each thread with its row."""

    cta: Cta
    i: Any
    row: Row

    def block(self, block: Any, key_block: Any, state: tuple[Any, Any], masked: bool) -> tuple[Any, Any]:
        """Replaces a block's scores by weights; returns the state (reference, total) after it.

        block: its number among this CTA's; key_block: among the keys.
        """
        reference, total = state
        row_softmax = self.cta.softmax
        self.cta.rings.s.of(self.i).wait_full(block)
        ptx.tcgen05_fence("after_thread_sync")
        scores = tmem.load_columns(self.cta.column("s", self.i), TILE)
        if self.row.logits is not None:
            scores = self.general_scores(scores, block, key_block * TILE)
        elif masked:
            scores = mask_scores(scores, visible(self.row.problem, self.row.index, key_block * TILE))
        reference, factor = row_softmax.follow(row_maximum(scores), reference)
        self.send(self.cta.shared.factors, self.cta.rings.factor, factor)
        return reference, total * factor + self.store_weights(scores, reference)

    def general_scores(self, scores: list[Any], block: Any, first_key: Any) -> list[Any]:
        """Returns the logits of a block's keys, masked."""
        row, ring = self.row, self.cta.rings.owners
        ring.wait_full(block)
        owners = Owners(self.owners, self.cta.shared.owners[TILE])
        columns = visible(row.problem, row.index, first_key)
        scores = mask_general(row.logits.of(scores, first_key), columns, owners, row.owner)
        ptx.bar_warp_sync(FULL_WARP)
        ring.arrive_empty(block)
        return scores

    def owners(self) -> list[Any]:
        """Returns whose the keys of the block are that is in shared memory."""
        vectors = [self.cta.shared.owners[j:VECTOR, cutlass.align(4 * VECTOR)] for j in range(0, TILE, VECTOR)]
        return [vector[j] for vector in vectors for j in range(VECTOR)]

    def finish(self, tile: Tile, reference: Any, total: Any) -> Finished:
        """Returns what the row ends with."""
        optional = self.cta.arrays.optional
        if optional is None:
            return self.cta.softmax.finish(reference, total)
        # Read now: in all blocks before, it would take a register.
        sink = optional.sink_log2(tile.batch, self.row.head)
        return self.cta.softmax.finish_with_sink(reference, total, sink)

    def store_weights(self, scores: list[Any], reference: Any) -> Any:
        """Computes and stores P, part by part; the tensor core begins when the head of it is there. Returns the sum."""
        plan = self.cta.plan
        part = TILE // P_PARTS
        sums: list[Any] = []
        before: list[Any] = []
        for number in range(P_PARTS):
            first = number * part
            these = self.cta.softmax.weights(scores[first : first + part], reference, first)
            words = tmem.words_of_pairs(these, plan.dtype)
            tmem.store_words(self.cta.column("p", self.i) + first // 2, words)
            # One part late: the sum is needed by nobody soon, but weights that wait for it take registers.
            sums = add_weights(sums, before) if before else sums
            before = these
            if number + 1 == plan.head_parts or number + 1 == P_PARTS:
                ring = self.cta.rings.p if number + 1 == plan.head_parts else self.cta.rings.p_tail
                tmem.finish_stores()
                ring.of(self.i).arrive_full(0)
        return total_of(add_weights(sums, before))

    def send(self, target: Any, ring: OpenRing, factor: Any) -> None:
        """Tells the correction role what to multiply this row's accumulator by."""
        target[self.i * TILE + row_of_thread()] = factor
        ptx.bar_warp_sync(FULL_WARP)
        ring.of(self.i).arrive_full(0)
