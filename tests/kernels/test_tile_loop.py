"""TileLoop and Walk against a count of every pair of row and key."""

import dataclasses
import itertools

import pytest

from jax_fa4.kernels.tile_loop import Band, Problem, Walk, tile_loop

ROWS, BLOCK = 8, 4
BANDS = [
    None, Band(-(1 << 30), 0), Band(0, 0), Band(-3, 2), Band(-1, 9), Band(-40, -30), Band(5, 1 << 30), Band(30, 40),
]  # fmt: skip


def sees(problem: Problem, row: int, key: int) -> bool:
    band, position = problem.band, row >> problem.pack_shift
    return 0 <= key < problem.keys and (band is None or position + band.low <= key <= position + band.high)


@pytest.mark.parametrize("band", BANDS, ids=str)
@pytest.mark.parametrize("pack_shift", [0, 1, 3])
@pytest.mark.parametrize("queries", [1, 7, 8, 9, 20])
@pytest.mark.parametrize("keys", [0, 1, 3, 4, 5, 17, 24])
def test_blocks_are_visited_once_and_masked_where_needed(
    band: Band | None, pack_shift: int, queries: int, keys: int
) -> None:
    problem = Problem(queries, keys, 1, 1, band, pack_shift)
    for first_row in range(0, problem.rows, ROWS):
        rows = range(first_row, min(first_row + ROWS, problem.rows))
        loop = tile_loop(problem, first_row, ROWS, BLOCK)
        visited = [loop.key_block(step) for step in range(loop.count)]
        assert len(set(visited)) == loop.count
        assert 0 <= loop.masked <= loop.count
        assert loop.count == 0 or any(sees(problem, row, key) for row in rows for key in range(keys))
        for block in range(-(-keys // BLOCK)):
            pairs = list(itertools.product(rows, range(block * BLOCK, (block + 1) * BLOCK)))
            seen = [sees(problem, row, key) for row, key in pairs]
            assert block in visited or not any(seen)
            if block in visited[loop.masked :]:
                assert all(seen)
            if block in visited[: loop.masked] and loop.count > 1 and any(seen):
                assert not all(seen), "a whole block need not be masked"


class Shorter:
    """Entries of the batch with fewer queries and keys."""

    def problem(self, whole: Problem, batch: int) -> Problem:
        return dataclasses.replace(whole, queries=3 * batch, keys=whole.keys - 5 * batch, each=self)


@pytest.mark.parametrize("pack_shift", [0, 2])
def test_entries_of_a_batch_that_differ(pack_shift: int) -> None:
    """Blocks that some row of an entry sees are visited, all with a mask; rows past its queries see none."""
    whole = Problem(20, 24, 1, 4, Band(-6, 2), pack_shift, Shorter())
    for batch in range(4):
        own = whole.entry(batch)
        for first_row in range(0, whole.rows, ROWS):
            loop = tile_loop(own, first_row, ROWS, BLOCK)
            visited = [loop.key_block(step) for step in range(loop.count)]
            assert loop.masked == loop.count
            rows = range(first_row, min(first_row + ROWS, own.rows))
            needed = {key // BLOCK for row in rows for key in range(own.keys) if sees(own, row, key)}
            assert needed <= set(visited) and len(set(visited)) == loop.count
            assert needed or not visited


@pytest.mark.parametrize("band", BANDS, ids=str)
def test_ctas_that_share_a_tile_visit_the_same_blocks(band: Band | None) -> None:
    """Each has rows of its own, and all blocks that the rows of both need."""
    problem = Problem(queries=37, keys=24, heads=2, batch=1, band=band)
    pair = [Walk(problem, 0, 1, 2 * ROWS, BLOCK, 1, own=own) for own in (0, ROWS)]
    for index in range(pair[0].count):
        tiles = [walk.tile(index) for walk in pair]
        first = tiles[0].first_row
        assert tiles[1] == dataclasses.replace(tiles[0], first_row=first + ROWS)
        for walk, tile in zip(pair, tiles, strict=True):
            assert walk.loop(tile) == tile_loop(problem, first, 2 * ROWS, BLOCK)
            assert walk.position(tile, 3) == [tile.first_row + 3, tile.head, tile.batch]


@pytest.mark.parametrize("section", [1, 2, 5, 6, 100])
@pytest.mark.parametrize("ctas", [1, 4, 24])
def test_every_tile_is_somebodys(section: int, ctas: int) -> None:
    problem = Problem(queries=25, keys=9, heads=3, batch=2)
    tiles = []
    for cta in range(ctas):
        walk = Walk(problem, cta, ctas, ROWS, BLOCK, section)
        tiles += [walk.tile(index) for index in range(walk.first, walk.count, walk.stride)]
    wanted = itertools.product(range(0, 25, ROWS), range(3), range(2))
    assert sorted((tile.first_row, tile.head, tile.batch) for tile in tiles) == sorted(wanted)


def test_the_longest_tiles_of_a_section_come_first() -> None:
    walk = Walk(Problem(25, 25, 2, 2, Band(-(1 << 30), 0)), 0, 1, ROWS, BLOCK, section=3)
    counts = [walk.loop(walk.tile(index)).count for index in range(walk.count)]
    for section in (counts[:12], counts[12:]):
        assert section == sorted(section, reverse=True)


def test_packed_heads_read_the_head_of_keys_they_share() -> None:
    walk = Walk(Problem(20, 9, heads=6, batch=1, pack_shift=1), 0, 1, ROWS, BLOCK, section=6, group=3)
    tiles = [walk.tile(index) for index in range(walk.count)]
    assert {(tile.head, walk.key_head(tile)) for tile in tiles} == {(head, head // 3) for head in range(6)}
    assert walk.query_blocks == 5
    assert walk.position(tiles[0], 3) == [tiles[0].first_row // 2 + 1, tiles[0].head, 0]
