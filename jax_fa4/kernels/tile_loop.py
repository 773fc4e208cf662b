"""Which tiles a CTA computes, and which key blocks each tile visits: the only place where that is decided.

Every role of a kernel asks the same `Walk` and the same `TileLoop`, so that they cannot disagree about a trip count.
Plain arithmetic that holds for Python integers (tests) and for the 32-bit integers of a kernel being traced.
"""

from dataclasses import dataclass
from typing import Any, Protocol

# A Python int, or a cutlass.Int32 while a kernel is traced.
Int = Any


def lesser(a: Int, b: Int) -> Int:
    """Returns the smaller of two integers."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    import cutlass

    return cutlass.min(a, b)


def greater(a: Int, b: Int) -> Int:
    """Returns the larger of two integers."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    import cutlass

    return cutlass.max(a, b)


def choose(condition: Any, a: Int, b: Int) -> Int:
    """Returns a where the condition holds, else b."""
    if isinstance(condition, bool):
        return a if condition else b
    import cutlass

    return cutlass.select_(condition, cutlass.Int32(a), cutlass.Int32(b))


def clamp(x: Int, low: Int, high: Int) -> Int:
    """Returns the integer of [low, high] nearest to x."""
    return lesser(greater(x, low), high)


@dataclass(frozen=True)
class Band:
    """The keys that a query row sees: row + low <= key <= row + high, as far as they exist.

    Causal attention is high = offset; a window (left, right) is low = offset - left, high = offset + right. The caller
    keeps both within +-2^30, where sums with positions do not wrap.
    """

    low: Int
    high: Int


@dataclass(frozen=True)
class TileLoop:
    """The key blocks of one tile of query rows: those that need a mask first, then the whole ones.

    highest: the last of the blocks. count: how many there are.
    masked_right: so many of the highest contain keys that some row must not see: too late for it, or past the end.
    masked_left: so many of the lowest, and not counted before, contain keys too early for some row.
    """

    highest: Int
    count: Int
    masked_right: Int
    masked_left: Int
    has_left: bool = True

    def key_block(self, step: Int) -> Int:
        """Returns the block that is visited at `step`, which counts from 0; within each kind, from high to low."""
        if not self.has_left:
            return self.highest - step
        skipped = choose(step < self.masked, self.masked - self.count, self.masked_left)
        return self.highest - step + choose(step < self.masked_right, 0, skipped)

    @property
    def masked(self) -> Int:
        """The steps that need a mask: all below this number."""
        return self.masked_right + self.masked_left


@dataclass(frozen=True)
class Problem:
    """The extents of a launch, or of one entry of its batch. `band` is None where every query sees every key.

    Heads that share keys are packed: 2^pack_shift query heads count as one, with that many rows for a query. Row r is
    at position r >> pack_shift.
    each: where the entries of a batch differ, what tells the extents of one. Where those have it too, queries differ in
      which keys they see within a band, and all blocks are masked.
    """

    queries: Int
    keys: Int
    heads: Int
    batch: Int
    band: Band | None = None
    pack_shift: Int = 0
    each: "Each | None" = None

    @property
    def rows(self) -> Int:
        """Rows of a packed head."""
        return self.queries << self.pack_shift

    def entry(self, batch: Int) -> "Problem":
        """Returns the extents of one entry of the batch."""
        return self if self.each is None else self.each.problem(self, batch)


class Each(Protocol):
    """Tells how entries of a batch differ."""

    def problem(self, whole: Problem, batch: Int) -> Problem:
        """Returns the extents of one entry."""


def tile_loop(problem: Problem, first_row: Int, rows: int, block: int) -> TileLoop:
    """Returns the key blocks that query rows first_row, ..., first_row + rows - 1 visit, `block` keys each."""
    keys = problem.keys
    if problem.band is None:
        end_block, full_end_block = (keys + block - 1) // block, keys // block
        return TileLoop(end_block - 1, end_block, end_block - full_end_block, 0, has_left=False)
    low, high = problem.band.low, problem.band.high
    last_row = lesser(first_row + rows, problem.rows) - 1
    first, last = first_row >> problem.pack_shift, last_row >> problem.pack_shift
    # Keys [start, end) are seen by some row; of these the ones from full_start and before full_end by every row.
    start = clamp(first + low, 0, keys)
    full_start = clamp(last + low, 0, keys)
    full_end = clamp(first + high + 1, 0, keys)
    end = clamp(last + high + 1, 0, keys)
    start_block, end_block = start // block, (end + block - 1) // block
    # An entry's own queries may all lie before this tile.
    count = choose((start < end) & (first_row <= last_row), end_block - start_block, 0)
    if problem.each is not None:
        return TileLoop(end_block - 1, count, count, 0, has_left=False)
    masked_right = clamp(end_block - full_end // block, 0, count)
    masked_left = clamp((full_start + block - 1) // block - start_block, 0, count - masked_right)
    return TileLoop(end_block - 1, count, masked_right, masked_left)


@dataclass(frozen=True)
class Tile:
    """Where a tile of query rows is."""

    first_row: Int
    head: Int
    batch: Int


@dataclass(frozen=True)
class Walk:
    """The tiles of a launch in an order that is good for all, and which of them are this CTA's.

    first, stride: this CTA's tiles are first, first + stride, ... below `count`. With as many CTAs as tiles each has
      one; with fewer, say one per multiprocessor, they persist.
    rows: rows of a tile. section: heads whose keys and values stay in the L2 cache together.
    group: packed heads that share a head of keys. own: the row of a tile with which this CTA's begin.

    Heads come in sections. Within one, tiles near the end of the queries, which see most keys where attention is
    causal, come first for all heads of the section: what is left for the end of a launch is short.
    """

    problem: Problem
    first: Int
    stride: Int
    rows: int
    block: int
    section: Int
    group: Int = 1
    own: Int = 0

    @property
    def query_blocks(self) -> Int:
        """Tiles per head."""
        return (self.problem.rows + self.rows - 1) // self.rows

    @property
    def count(self) -> Int:
        """Tiles of the launch."""
        return self.query_blocks * self.problem.heads * self.problem.batch

    def tile(self, index: Int) -> Tile:
        """Returns tile `index` of the order."""
        heads, blocks = self.problem.heads * self.problem.batch, self.query_blocks
        section_index = index // (self.section * blocks)
        first_head = section_index * self.section
        width = lesser(self.section, heads - first_head)
        within = index - first_head * blocks
        query_block = blocks - 1 - within // width
        head = first_head + within % width
        return Tile(query_block * self.rows + self.own, head % self.problem.heads, head // self.problem.heads)

    def loop(self, tile: Tile) -> TileLoop:
        """Returns the key blocks of a tile."""
        return tile_loop(self.problem.entry(tile.batch), tile.first_row - self.own, self.rows, self.block)

    def position(self, tile: Tile, row: Int) -> list[Int]:
        """Returns where row `row` of a tile stands in the array of queries: query, packed head, batch entry."""
        return [(tile.first_row + row) >> self.problem.pack_shift, tile.head, tile.batch]

    def key_head(self, tile: Tile) -> Int:
        """Returns the head of keys and values that a tile reads."""
        return tile.head // self.group
