"""TileLoop and Walk against a count of every pair of row and key."""

import itertools

import pytest

from jax_fa4.kernels.tile_loop import Band, Problem, Walk, tile_loop

ROWS, BLOCK = 8, 4
BANDS = [
    None, Band(-(1 << 30), 0), Band(0, 0), Band(-3, 2), Band(-1, 9), Band(-40, -30), Band(5, 1 << 30), Band(30, 40),
]  # fmt: skip


def sees(problem: Problem, row: int, key: int) -> bool:
    band = problem.band
    return 0 <= key < problem.keys and (band is None or row + band.low <= key <= row + band.high)


@pytest.mark.parametrize("band", BANDS, ids=str)
@pytest.mark.parametrize("queries", [1, 7, 8, 9, 20])
@pytest.mark.parametrize("keys", [1, 3, 4, 5, 17, 24])
def test_blocks_are_visited_once_and_masked_where_needed(band: Band | None, queries: int, keys: int) -> None:
    problem = Problem(queries, keys, 1, 1, band)
    for first_row in range(0, queries, ROWS):
        rows = range(first_row, min(first_row + ROWS, queries))
        loop = tile_loop(problem, first_row, ROWS, BLOCK)
        visited = [loop.key_block(step) for step in range(loop.count)]
        assert len(set(visited)) == loop.count
        assert 0 <= loop.masked <= loop.count
        for block in range(-(-keys // BLOCK)):
            pairs = list(itertools.product(rows, range(block * BLOCK, (block + 1) * BLOCK)))
            seen = [sees(problem, row, key) for row, key in pairs]
            assert block in visited or not any(seen)
            if block in visited[loop.masked :]:
                assert all(seen)
            if block in visited[: loop.masked] and loop.count > 1 and any(seen):
                assert not all(seen), "a whole block need not be masked"


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
