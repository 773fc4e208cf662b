"""Rows of tensor memory in registers: a thread reads and writes the lane that is its own."""

from typing import Any

import cutlass.cute as cute
from cutlass import Float32, Int32, Vector
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.cta import DTYPES

COLUMNS_LOADED = 32  # by one instruction: more would need more registers at once than a thread has at first
LANE = 1 << 16  # in a tensor memory address


def lanes_of_warp(column: Any) -> Any:
    """Returns the address of a column in the 32 lanes that this warp may touch."""
    warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
    return column + (warp % 4) * (32 * LANE)


def load_columns(column: Any, count: int) -> list[Any]:
    """Returns `count` float32 columns of this thread's lane."""
    at = lanes_of_warp(column)
    vectors = [
        ptx.tcgen05_ld("32x32b", ptx.make_tmem_ptr(at + first, Int32), num=COLUMNS_LOADED)
        for first in range(0, count, COLUMNS_LOADED)
    ]
    ptx.tcgen05_wait("load")
    return [vector[j].bitcast(Float32) for vector in vectors for j in range(COLUMNS_LOADED)]


def store_words(column: Any, words: list[Any]) -> None:
    """Writes 32-bit words into columns of this thread's lane; `finish_stores` completes that."""
    at = lanes_of_warp(column)
    ptx.tcgen05_st("32x32b", ptx.make_tmem_ptr(at, Int32), Vector.from_elements(tuple(words), Int32))


def finish_stores() -> None:
    """Waits for this thread's stores and puts what they wrote before the arrival that follows."""
    ptx.tcgen05_wait("store")
    ptx.tcgen05_fence("before_thread_sync")


def words_of_pairs(values: list[Any], dtype: str) -> list[Any]:
    """Returns float32 values rounded to 16 bits, two to a word."""
    words = []
    for j in range(0, len(values), 2):
        pair = Vector.from_elements((values[j + 1], values[j]), Float32)  # the first becomes the upper half
        words.append(ptx.convert(pair, DTYPES[dtype], rnd="rn").bitcast(Int32)[0])
    return words


def words_of_floats(values: list[Any]) -> list[Any]:
    """Returns the bits of float32 values."""
    return [value.bitcast(Int32) for value in values]
