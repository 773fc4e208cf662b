"""Which of a row's scores count: the columns from one limit up to another, taken 32 at a time as the bits of a word."""

from dataclasses import dataclass
from typing import Any

import cutlass
from cutlass import Float32, Int32, Uint32, Uint64

from jax_fa4.kernels.tile_loop import Int, Problem, clamp

WORD = 32


@dataclass(frozen=True)
class Columns:
    """The columns [start, end) of a block of scores; start None: from the first one."""

    start: Int
    end: Int


def visible(problem: Problem, row: Int, first_key: Int) -> Columns:
    """Returns the columns that `row` sees of the block of keys that begins with `first_key`; limits may lie outside."""
    end = problem.keys - first_key
    if problem.band is None:
        return Columns(None, end)
    return Columns(row + problem.band.low - first_key, cutlass.min(end, row + problem.band.high + 1 - first_key))


def low_bits(count: Int) -> Any:
    """Returns a word with the lowest `count` bits set, where any count below 0 is 0 and above 32 is 32."""
    # In 64 bits: a shift of a 32-bit word by 32 would be undefined.
    wide = (Uint64(1) << Uint64(clamp(count, Int32(0), Int32(WORD)))) - Uint64(1)
    return Uint32(wide)


def mask_scores(scores: list[Any], columns: Columns) -> list[Any]:
    """Returns the scores with -inf in place of those that do not count."""
    masked = []
    for first in range(0, len(scores), WORD):
        bits = low_bits(columns.end - first)
        if columns.start is not None:
            bits = bits & ~low_bits(columns.start - first)
        for j, score in enumerate(scores[first : first + WORD]):
            counts = (bits & Uint32(1 << j)) != Uint32(0)
            masked.append(cutlass.select_(counts, score, -Float32.inf))
    return masked
