"""The matrix product against numpy, and the widening of every 16-bit number there is."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from jax_fa4_simulator import _simulator

SHAPES = [(m, n) for m in (16, 64, 128, 256) for n in (8, 16, 24, 64, 128, 248, 256)] + [(1, 1), (5, 3), (131, 17)]


@pytest.mark.parametrize(("element", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_every_16_bit_number_is_widened_exactly(element: str, dtype: type) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    found = np.empty(bits.size, np.float32)
    _simulator.widen(element, bits, found)
    with np.errstate(invalid="ignore"):
        expected = bits.view(dtype).astype(np.float32)
    np.testing.assert_array_equal(found, expected)  # NaN where NaN is expected
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(found.view(np.uint32)[numbers], expected.view(np.uint32)[numbers])


@pytest.mark.parametrize("count", [0, 1, 7, 33])
def test_widening_touches_no_more_than_count(count: int) -> None:
    found = np.full(count, -1, np.float32)
    _simulator.widen("bf16", np.full(count, 0x3F80, np.uint16), found)
    np.testing.assert_array_equal(found, np.ones(count, np.float32))


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("depth", [16, 48, 130])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_small_integers_are_exact(m: int, n: int, depth: int, accumulate: bool) -> None:
    random = np.random.default_rng(m * n)
    a, b = (random.integers(-3, 4, (rows, depth)).astype(np.float32) for rows in (m, n))
    before = random.integers(-100, 100, (m, n + 5)).astype(np.float32)
    found = before.copy()
    _simulator.multiply(found, a, b, n, accumulate)
    expected = before.copy()
    expected[:, :n] = a @ b.T + (before[:, :n] if accumulate else 0)
    np.testing.assert_array_equal(found, expected)


def test_sums_are_float32_in_order_of_k() -> None:
    """The same bits on every processor: with exact products a fused multiply-add rounds no differently."""
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(rows, 16)).astype(np.float16).astype(np.float32) for rows in (64, 40))
    found = random.normal(size=(64, 40)).astype(np.float32)
    expected = found.copy()
    for k in range(16):
        expected += np.outer(a[:, k], b[:, k])
    _simulator.multiply(found, a, b, 40, True)
    np.testing.assert_array_equal(found, expected)


def test_infinities_and_nans_stay_in_their_row_and_column() -> None:
    a, b = np.ones((64, 16), np.float32), np.ones((24, 16), np.float32)
    a[3, 5], b[7, 2] = np.inf, np.nan
    found = np.zeros((64, 24), np.float32)
    _simulator.multiply(found, a, b, 24, True)
    expected = np.full((64, 24), 16, np.float32)
    expected[3], expected[:, 7] = np.inf, np.nan
    np.testing.assert_array_equal(found, expected)
