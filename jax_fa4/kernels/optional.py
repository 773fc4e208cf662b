"""The arrays that a call may have beside query, key and value: lengths, offsets, segment ids, sinks, slopes.

An absent array is a null pointer. A key or a query has an owner, its segment id or 0, and sees only those of the same;
what is padding has an owner that no other side has.
"""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float16, Float32, Float64, Int32, Int64

from jax_fa4.kernels.row_softmax import LOG2_E
from jax_fa4.kernels.tile_loop import Band, Int, Problem, choose, clamp

NOBODYS_KEY, NOBODYS_QUERY = -1, -2
NO_LIMIT = 1 << 30  # of a band's side
FLOATS = (Float32, BFloat16, Float16, Float64)  # by the number that a launch gives for a dtype


@dataclass(frozen=True)
class OptionalArray:
    """A pointer, its elements from one batch entry to the next, and, of floats, which of `FLOATS` they are."""

    pointer: Any
    stride: Any
    dtype: Any = None

    def integer(self, batch: Int, index: Int, absent: Int) -> Int:
        """Returns an int32 element, or `absent` without an array."""
        return read_integer(self.pointer, self.at(batch, index), Int32(absent))

    def number(self, batch: Int, index: Int, absent: float) -> Any:
        """Returns a float element as float32, or `absent` without an array."""
        return read_number(self.pointer, self.at(batch, index), self.dtype, Float32(absent))

    def offset(self, batch: Int) -> Int:
        """Returns a batch entry's element as a distance of positions; beyond all of them it makes no difference."""
        return clamp(self.integer(batch, 0, 0), -NO_LIMIT, NO_LIMIT)

    def at(self, batch: Int, index: Int) -> Any:
        """Returns the index of an element from the pointer on."""
        return Int64(batch) * Int64(self.stride) + Int64(index)


@cute.jit
def read_integer(pointer, index, absent):
    """Reads an int32 where there is an array."""
    value = absent
    if pointer.toint() != 0:
        value = element(pointer, index, Int32)
    return value


@cute.jit
def read_number(pointer, index, dtype, absent):
    """Reads a float of the dtype with this number, where there is an array."""
    value = absent
    if pointer.toint() != 0:
        for number in cutlass.range_constexpr(len(FLOATS)):
            if dtype == number:
                value = element(pointer, index, FLOATS[number]).to(Float32)
    return value


def element(pointer: Any, index: Any, dtype: Any) -> Any:
    """Returns one element of an array of this dtype."""
    return cute.make_tensor(cute.recast_ptr(pointer, dtype=dtype) + index, cute.make_layout(1))[0]


def moved(band: Any, offset: Int) -> Band:
    """Returns a band for queries that stand `offset` further on; a side without a limit has none."""
    sides = ((band.low, -NO_LIMIT), (band.high, NO_LIMIT))
    return Band(*(choose(side == none, none, clamp(side + offset, -NO_LIMIT, NO_LIMIT)) for side, none in sides))


@dataclass(frozen=True)
class Offsets:
    """Of a banded variant, whose batch entries differ in nothing else: where their queries stand."""

    query_offset: OptionalArray

    def problem(self, whole: Problem, batch: Int) -> Problem:
        """Returns the extents of one batch entry."""
        band = moved(whole.band, self.query_offset.offset(batch))
        return Problem(whole.queries, whole.keys, whole.heads, whole.batch, band, whole.pack_shift)


@dataclass(frozen=True)
class Optional:
    """The arrays of a launch."""

    sinks: OptionalArray
    alibi_slopes: OptionalArray
    query_segment_ids: OptionalArray
    key_value_segment_ids: OptionalArray
    query_seq_lengths: OptionalArray
    key_value_seq_lengths: OptionalArray
    query_offset: OptionalArray

    def problem(self, whole: Problem, batch: Int) -> Problem:
        """Returns the extents of one batch entry: its lengths, and its band, which the offset moves."""
        queries = clamp(self.query_seq_lengths.integer(batch, 0, whole.queries), 0, whole.queries)
        keys = clamp(self.key_value_seq_lengths.integer(batch, 0, whole.keys), 0, whole.keys)
        offset = self.query_offset.offset(batch)
        return Problem(
            queries, keys, whole.heads, whole.batch, moved(whole.band, offset), whole.pack_shift, self
        )  # fmt: skip

    def key_owner(self, problem: Problem, batch: Int, key: Int) -> Int:
        """Returns the owner of a key of a batch entry."""
        exists = key < problem.keys
        owner = self.key_value_segment_ids.integer(batch, choose(exists, key, 0), 0)
        return choose(exists & (owner >= 0), owner, NOBODYS_KEY)

    def query_owner(self, problem: Problem, batch: Int, query: Int) -> Int:
        """Returns the owner of a query of a batch entry."""
        exists = query < problem.queries
        owner = self.query_segment_ids.integer(batch, choose(exists, query, 0), 0)
        return choose(exists & (owner >= 0), owner, NOBODYS_QUERY)

    def sink_log2(self, batch: Int, head: Int) -> Any:
        """Returns a head's sink times log2(e), -inf where it has none."""
        return self.sinks.number(batch, head, -float("inf")) * Float32(LOG2_E)

    def slope_log2(self, batch: Int, head: Int) -> Any:
        """Returns a head's ALiBi slope times log2(e)."""
        return self.alibi_slopes.number(batch, head, 0.0) * Float32(LOG2_E)

    def position(self, batch: Int, query: Int) -> Any:
        """Returns where a query stands, for ALiBi."""
        return Float32(query) + Float32(self.query_offset.integer(batch, 0, 0))
