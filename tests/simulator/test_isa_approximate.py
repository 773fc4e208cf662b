"""Approximate functions within the manual's bounds, and exactly at the points where the manual gives a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lane_cases import BF16, F16, F32, Run, assert_same_bits, floats, pairs, sweep

NAN = np.uint32(0x7FFFFFFF).view(np.float32)
TINY = np.float32(2.0**-149)  # a subnormal: its reciprocal overflows

# name: function in double; inputs; allowed ulp of float at the result; allowed absolute error
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], tuple[float, float], float, float]] = {
    "ex2": (np.exp2, (-126.0, 128.0), 2, 0),
    "lg2": (np.log2, (0.5, 2.0), 0, 2.0**-22),
    "rcp": (lambda x: 1 / x, (-100.0, 100.0), 1, 0),
    "rsqrt": (lambda x: 1 / np.sqrt(x), (0.0, 1e6), 4, 0),
    "sqrt": (np.sqrt, (0.0, 1e6), 4, 0),
    "sin": (np.sin, (-np.pi, np.pi), 0, 2.0**-20.5),
    "cos": (np.cos, (-np.pi, np.pi), 0, 2.0**-20.5),
    "tanh": (np.tanh, (-8.0, 8.0), 2.0**13, 0),
}

# The manual's tables of special inputs.
SPECIAL: dict[str, list[tuple[float, float]]] = {
    "ex2": [(-np.inf, 0), (-0.0, 1), (0.0, 1), (np.inf, np.inf), (np.nan, np.nan), (-151, 0), (128, np.inf)],
    "lg2": [(-np.inf, np.nan), (-0.0, -np.inf), (0.0, -np.inf), (np.inf, np.inf), (np.nan, np.nan), (-1, np.nan)],
    "rcp": [(-np.inf, -0.0), (-0.0, -np.inf), (0.0, np.inf), (np.inf, 0), (np.nan, np.nan)],
    "rsqrt": [(-np.inf, np.nan), (-0.0, -np.inf), (0.0, np.inf), (np.inf, 0), (np.nan, np.nan), (-1, np.nan)],
    "sqrt": [(-np.inf, np.nan), (-0.0, -0.0), (0.0, 0), (np.inf, np.inf), (np.nan, np.nan), (-1, np.nan)],
    "sin": [(-np.inf, np.nan), (-0.0, -0.0), (0.0, 0), (np.inf, np.nan), (np.nan, np.nan)],
    "cos": [(-np.inf, np.nan), (-0.0, 1), (0.0, 1), (np.inf, np.nan), (np.nan, np.nan)],
    "tanh": [(-np.inf, -1), (-0.0, -0.0), (0.0, 0), (np.inf, 1), (np.nan, np.nan)],
}

AT_SUBNORMALS: dict[str, float] = {
    "ex2": 1.0, "lg2": -149.0, "rcp": np.inf, "rsqrt": 2.0**74.5, "sqrt": 2.0**-74.5, "sin": 2.0**-149, "cos": 1.0,
}  # fmt: skip
AT_ZERO: dict[str, float] = {"ex2": 1, "lg2": -np.inf, "rcp": np.inf, "rsqrt": np.inf, "sqrt": 0, "sin": 0, "cos": 1}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_bounds(run: Run, name: str) -> None:
    function, (low, high), ulps, absolute = FUNCTIONS[name]
    a = np.random.default_rng(1).uniform(low, high, 2048).astype(np.float32)
    for ftz in ["", ".ftz"] if name != "tanh" else [""]:
        found = sweep(run, f"{name}.approx{ftz}.f32 %d, %a;", np.float32, a=a)
        exact = function(a.astype(np.float64))
        allowed = ulps * np.spacing(np.abs(exact).astype(np.float32)) + absolute
        assert (np.abs(found - exact) <= allowed).all()


@pytest.mark.parametrize("ftz", ["", ".ftz"])
def test_lg2_is_off_by_a_relative_error_outside_half_to_two(run: Run, ftz: str) -> None:
    a = np.exp2(np.random.default_rng(4).uniform(1, 120, 512) * np.tile([-1, 1], 256)).astype(np.float32)
    exact = np.log2(a.astype(np.float64))
    found = sweep(run, f"lg2.approx{ftz}.f32 %d, %a;", np.float32, a=a)
    assert (np.abs(found - exact) <= 2.0**-22 * np.abs(exact)).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_inputs(run: Run, name: str) -> None:
    a, expected = np.array(SPECIAL[name], np.float32).T.copy()
    expected[np.isnan(expected)] = NAN
    for ftz in ["", ".ftz"] if name != "tanh" else [""]:
        assert_same_bits(sweep(run, f"{name}.approx{ftz}.f32 %d, %a;", np.float32, a=a), expected, a)


@pytest.mark.parametrize("name", AT_SUBNORMALS)
def test_subnormal_inputs_count_unless_flushed(run: Run, name: str) -> None:
    a = np.full(32, TINY)
    found = sweep(run, f"{name}.approx.f32 %d, %a;", np.float32, a=a)
    assert_same_bits(found, np.full(32, AT_SUBNORMALS[name], np.float32))
    found = sweep(run, f"{name}.approx.ftz.f32 %d, %a;", np.float32, a=a)
    assert_same_bits(found, np.full(32, AT_ZERO[name], np.float32))


def test_ex2_is_exact_at_integers_and_within_one_ulp_elsewhere(run: Run) -> None:
    whole = np.arange(-160, 161, dtype=np.float32)
    with np.errstate(over="ignore"):
        expected = np.exp2(whole.astype(np.float64)).astype(np.float32)
    assert_same_bits(sweep(run, "ex2.approx.f32 %d, %a;", np.float32, a=whole), expected, whole)
    flushed = np.where(expected < 2.0**-126, np.float32(0), expected)
    assert_same_bits(sweep(run, "ex2.approx.ftz.f32 %d, %a;", np.float32, a=whole), flushed, whole)
    random = np.random.default_rng(2)
    a = np.concatenate([random.uniform(-150, 128, 4096), random.standard_normal(4096)]).astype(np.float32)
    exact = np.exp2(a.astype(np.float64))
    found = sweep(run, "ex2.approx.f32 %d, %a;", np.float32, a=a)
    assert (np.abs(found - exact) <= np.spacing(exact.astype(np.float32))).all()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("opcode", ["ex2.approx.f16", "ex2.approx.ftz.bf16", "tanh.approx.f16", "tanh.approx.bf16"])
def test_narrow_functions_are_the_wide_ones_rounded(run: Run, opcode: str, packed: bool) -> None:
    form = BF16 if opcode.endswith("bf16") else F16
    function = np.exp2 if opcode.startswith("ex2") else np.tanh
    a = np.concatenate([floats(form, 2), np.random.default_rng(3).uniform(-9, 9, 213).astype(form.dtype)])
    a = a[: len(a) // 2 * 2]
    x = a.astype(np.float64)
    if "ftz" in opcode:
        x = np.array([form.flushed(v) for v in x])
    with np.errstate(over="ignore"):
        exact = function(x).astype(np.float32).astype(np.float64)
    exact = np.array([form.flushed(v) for v in exact]) if "ftz" in opcode else exact
    with np.errstate(over="ignore"):
        expected = form.array(exact)
    given, out = (a.reshape(-1, 2), (form.dtype, 2)) if packed else (a, form.dtype)
    found = sweep(run, f"{opcode}{'x2' * packed} %d, %a;", out, a=given).reshape(-1)
    assert_same_bits(found, expected, a)


@pytest.mark.parametrize("ftz", ["", ".ftz"])
@pytest.mark.parametrize("mode", ["approx", "full"])
def test_division(run: Run, mode: str, ftz: str) -> None:
    a, b = pairs(np.array([*floats(F32, 8, 1), np.float32(1e-3)]), floats(F32, 8, 2))
    x, y = (np.array([F32.flushed(float(v)) if ftz else float(v) for v in values]) for values in (a, b))
    with np.errstate(all="ignore"):
        exact = x / y
        exact = np.where(np.abs(exact) > F32.greatest, np.copysign(np.inf, exact), exact)
    if mode == "approx":  # the divisor's reciprocal is flushed
        huge = (np.abs(y) > 2.0**126) & np.isfinite(y)
        zero = np.where(np.isfinite(x), np.copysign(0.0, exact), np.nan)
        exact = np.where(huge & ~np.isnan(x), zero, exact)
    found = sweep(run, f"div.{mode}{ftz}.f32 %d, %a, %b;", np.float32, a=a, b=b)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
    rest = ~np.isnan(exact)
    exact, found = exact[rest], found[rest].astype(np.float64)
    if ftz:
        exact = np.array([F32.flushed(v) for v in exact])
    same = (exact == found) & (np.signbit(exact) == np.signbit(found))
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(exact - found) <= 2 * np.spacing(np.abs(exact).astype(np.float32))
    assert (same | near).all()
