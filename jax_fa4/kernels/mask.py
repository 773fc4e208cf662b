"""Which of a row's scores count: the columns from one limit up to another, 32 at a time as the bits of a word."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Uint32, Uint64

from jax_fa4.kernels.tile_loop import Int, Problem, clamp

WORD = 32
MIXED = -3  # in place of the owner of all keys of a block, where they have several


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
    query = (row >> problem.pack_shift) - first_key
    return Columns(query + problem.band.low, cutlass.min(end, query + problem.band.high + 1))


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


@dataclass(frozen=True)
class Owners:
    """Whose the keys of a block are: each, and all of them or `MIXED`."""

    each: Callable[[], list[Any]]
    common: Any


def mask_general(scores: list[Any], columns: Columns, owners: Owners, owner: Any) -> list[Any]:
    """Returns the scores with -inf for columns that do not count and for keys of others; as given if all of a warp do.

    owner: of the row.
    """
    count = len(scores)
    whole = (columns.start <= 0) & (columns.end >= count) & (owners.common == owner)
    return list(mask_unless(cute.arch.vote_all_sync(whole), scores, columns, owners, owner))


@cute.jit
def mask_unless(whole, scores, columns: cutlass.Constexpr, owners: cutlass.Constexpr, owner):
    """The scores as given, or masked."""
    if not whole:
        scores = mask_scores(mask_others(scores, owners.each(), owner), columns)
    return scores


def mask_others(scores: list[Any], owners: list[Any], owner: Any) -> list[Any]:
    """Returns the scores with -inf in place of those whose key has another owner."""
    return [cutlass.select_(of_key == owner, score, -Float32.inf) for score, of_key in zip(scores, owners, strict=True)]
