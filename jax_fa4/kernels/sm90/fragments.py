"""Where the numbers of a wgmma accumulator lie: a thread has two rows, and of each two of every eight columns.

Four neighbouring threads share a row. (PTX ISA, "Register Fragments for wgmma.mma_async.m64nNk16".)
"""

from collections.abc import Callable
from typing import Any

import cutlass.cute as cute
from cutlass import Float32, Int32, Vector
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.cta import DTYPES
from jax_fa4.kernels.mask import Columns
from jax_fa4.kernels.parts import WARP
from jax_fa4.kernels.sm90.plan import WARPGROUP
from jax_fa4.kernels.tile_loop import Int, lesser

ROWS = 2  # of a thread
ROW_PITCH = 8  # from a thread's first row to its second
WARP_ROWS = 16
ROUND = 8  # columns after which a thread has its next two
LANES = 4  # that share a row


def thread_of_warpgroup() -> Any:
    """Returns this thread's number in its warpgroup."""
    thread, _, _ = cute.arch.thread_idx()
    return thread % (WARPGROUP * WARP)


def row_of_thread() -> Any:
    """Returns the first of this thread's rows in the query tile."""
    thread = thread_of_warpgroup()
    return thread // WARP * WARP_ROWS + thread % WARP // LANES


def column_of_thread() -> Any:
    """Returns the first of this thread's columns."""
    return cute.arch.lane_idx() % LANES * 2


def columns_of(count: int) -> list[int]:
    """Returns the first so many columns of a thread, from its first on."""
    return [n // 2 * ROUND + n % 2 for n in range(count)]


def limits_of_thread(columns: Columns) -> Columns:
    """Returns the limits of columns as limits of this thread's, counted from 0."""
    first = column_of_thread()
    start = None if columns.start is None else own_below(columns.start - first)
    return Columns(start, own_below(columns.end - first))


def own_below(limit: Int) -> Int:
    """Returns how many of the columns 0, 1, 8, 9, 16, ... lie below a limit; 0 or less where it is not above 0."""
    return (limit >> 3) * 2 + lesser(limit & (ROUND - 1), Int32(2))


def across_row(value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """Joins the values of the threads that share a row; all have the result."""
    for distance in (1, 2):
        value = join(value, cute.arch.shuffle_sync_bfly(value, distance))
    return value


def word_of_pair(first: Any, second: Any, dtype: str) -> Any:
    """Returns two float32 values rounded to 16 bits, the first in the lower half."""
    pair = Vector.from_elements((second, first), Float32)  # the first of these becomes the upper half
    return ptx.convert(pair, DTYPES[dtype], rnd="rn").bitcast(Int32)[0]
