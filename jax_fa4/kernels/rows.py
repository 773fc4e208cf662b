"""A row of a packed head: its query, what is its own, and where its log-sum-exp goes."""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute

from jax_fa4.kernels.logits import RowLogits
from jax_fa4.kernels.tile_loop import Problem, Tile


@dataclass(frozen=True)
class Row:
    """A row of a packed head: its query, which head of the pack it is, and in general variants what is its own."""

    index: Any
    problem: Problem
    query: Any
    head: Any
    owner: Any = None
    logits: Any = None


def row_of(cta: Any, tile: Tile, index: Any) -> Row:
    """Returns row `index` of the tile's packed head."""
    problem, optional = cta.walk.problem.entry(tile.batch), cta.arrays.optional
    query = index >> problem.pack_shift
    head = (tile.head << problem.pack_shift) + (index - (query << problem.pack_shift))
    if optional is None:
        return Row(index, problem, query, head)
    batch = tile.batch
    slope, position = optional.slope_log2(batch, head), optional.position(batch, query)
    logits = RowLogits(cta.scores.scale_log2, cta.scores.cap_log2, slope, position)
    return Row(index, problem, query, head, optional.query_owner(problem, batch, query), logits)


def store_log_sum_exp(cta: Any, tile: Tile, row: Row, value: Any) -> None:
    """Writes one element of the array (batch, heads, queries)."""
    problem = cta.walk.problem
    head = tile.batch * (problem.heads << problem.pack_shift) + row.head
    at = cutlass.Int64(head) * cutlass.Int64(problem.queries) + cutlass.Int64(row.query)
    out = cute.make_tensor(cta.arrays.log_sum_exp + at, cute.make_layout(1))
    out[0] = value
