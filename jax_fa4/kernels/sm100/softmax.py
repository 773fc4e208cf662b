"""The softmax role: a warpgroup per query tile and a thread per row, scores to weights in tensor memory."""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.mask import mask_scores, visible
from jax_fa4.kernels.row_softmax import add_weights, inverse, total_of
from jax_fa4.kernels.sm100 import tmem
from jax_fa4.kernels.sm100.cta import Cta, row_of_thread, warp_index
from jax_fa4.kernels.sm100.plan import P_PARTS, TILE
from jax_fa4.kernels.sm100.rings import FULL_WARP, OpenRing, arrive_once


@cute.jit
def softmax(cta: cutlass.Constexpr):
    """Each warpgroup does its query tile of every tile: blocks that need a mask, whole ones, the last factor."""
    walk = cta.walk
    i = warp_index() // 4
    rows = SoftmaxRows(cta, i)
    block, tile_number = Int32(0), Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        tile = walk.tile(index)
        loop = walk.loop(tile)
        row = tile.first_row + i * TILE + row_of_thread()
        reference, total = cta.softmax.start()
        for step in cutlass.range(0, loop.masked, unroll=1):
            at = Step(block + step, row, loop.key_block(step) * TILE)
            reference, total = rows.block(at, (reference, total), True)
        for step in cutlass.range(loop.masked, loop.count, unroll=1):
            at = Step(block + step, row, loop.key_block(step) * TILE)
            reference, total = rows.block(at, (reference, total), False)
        if loop.count > 0:
            cta.rings.inverse.of(i).wait_empty(tile_number)
            rows.send(cta.shared.inverses, cta.rings.inverse, inverse(total))
            block += loop.count
            tile_number += 1
        if row < walk.problem.queries:
            store_log_sum_exp(cta, tile, row, cta.softmax.log_sum_exp(reference, total))


@dataclass(frozen=True)
class Step:
    """Where a block of scores stands: its number among this CTA's, its row, its first key."""

    block: Any
    row: Any
    first_key: Any


@dataclass(frozen=True)
class SoftmaxRows:
    """The warpgroup of query tile i."""

    cta: Cta
    i: Any

    def block(self, at: Step, state: tuple[Any, Any], masked: bool) -> tuple[Any, Any]:
        """Replaces a block's scores by weights; returns the state (reference, total) after it."""
        reference, total = state
        row_softmax = self.cta.softmax
        self.cta.rings.s.of(self.i).wait_full(at.block)
        ptx.tcgen05_fence("after_thread_sync")
        scores = tmem.load_columns(self.cta.column("s", self.i), TILE)
        if masked:
            scores = mask_scores(scores, visible(self.cta.walk.problem, at.row, at.first_key))
        reference, factor = row_softmax.follow(scores, reference)
        self.send(self.cta.shared.factors, self.cta.rings.factor, factor)
        return reference, total * factor + self.store_weights(scores, reference)

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
                arrive_once(ring.of(self.i).full_barrier(0))
        return total_of(add_weights(sums, before))

    def send(self, target: Any, ring: OpenRing, factor: Any) -> None:
        """Tells the correction role what to multiply this row's accumulator by."""
        target[self.i * TILE + row_of_thread()] = factor
        ptx.bar_warp_sync(FULL_WARP)
        arrive_once(ring.of(self.i).full_barrier(0))


def store_log_sum_exp(cta: Cta, tile: Any, row: Any, value: Any) -> None:
    """Writes one element of the array (batch, heads, queries)."""
    problem = cta.walk.problem
    at = cutlass.Int64(tile.batch * problem.heads + tile.head) * cutlass.Int64(problem.queries) + cutlass.Int64(row)
    out = cute.make_tensor(cta.arrays.log_sum_exp + at, cute.make_layout(1))
    out[0] = value
