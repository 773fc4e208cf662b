"""Comparison and selection (PTX ISA, "Comparison and Selection Instructions", and testp)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lane_cases import BF16, BITS, F16, F32, INTEGERS, Run, assert_same_bits, floats, integers, pairs, sweep

ORDERED: dict[str, Callable[[Any, Any], Any]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
FLOATS: dict[str, Any] = {"f16": floats(F16, 4), "bf16": floats(BF16, 4), "f32": floats(F32, 4)}
FLOATS["f64"] = FLOATS["f32"].astype(np.float64) * 1.1
FLOAT_NAMES = [*ORDERED, *(f"{name}u" for name in ORDERED), "num", "nan"]
BOOLEAN: dict[str, Callable[[Any, Any], Any]] = {
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor,
}  # fmt: skip
FALSE_LANES = np.arange(32) % 3 == 0


def float_expected(name: str, a: Any, b: Any) -> Any:
    """With a NaN the ordered operators are false and the unordered ones true."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    nan = np.isnan(a) | np.isnan(b)
    if name in ("num", "nan"):
        return nan if name == "nan" else ~nan
    if name in ORDERED:
        return ORDERED[name](a, b) & ~nan
    return ORDERED["ne" if name == "neu" else name[:2]](a, b) | nan


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("name", ORDERED)
def test_setp_of_integers(run: Run, name: str, kind: str) -> None:
    a, b = pairs(integers(INTEGERS[kind], 4, seed=1), integers(INTEGERS[kind], 4, seed=1))
    found = sweep(run, f"setp.{name}.{kind} %d, %a, %b;", np.bool_, a=a, b=b)
    np.testing.assert_array_equal(found, ORDERED[name](a, b))


@pytest.mark.parametrize("kind", ["u16", "u32", "u64"])
@pytest.mark.parametrize("name", UNSIGNED)
def test_setp_by_the_unsigned_names(run: Run, name: str, kind: str) -> None:
    a, b = pairs(integers(INTEGERS[kind], 4, seed=1), integers(INTEGERS[kind], 4, seed=1))
    found = sweep(run, f"setp.{name}.{kind} %d, %a, %b;", np.bool_, a=a, b=b)
    np.testing.assert_array_equal(found, ORDERED[UNSIGNED[name]](a, b))
    c = np.arange(32) % 2 == 0
    combined = run(f"setp.{name}.and.{kind} %d, %a, %b, %c;", a=a[:32], b=b[:32], c=c, out={"d": np.bool_})["d"]
    np.testing.assert_array_equal(combined, ORDERED[UNSIGNED[name]](a, b)[:32] & c)


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("name", ["eq", "ne"])
def test_setp_of_bits(run: Run, name: str, kind: str) -> None:
    a, b = pairs(integers(BITS[kind], 4, seed=1), integers(BITS[kind], 4, seed=1))
    found = sweep(run, f"setp.{name}.{kind} %d, %a, %b;", np.bool_, a=a, b=b)
    np.testing.assert_array_equal(found, ORDERED[name](a, b))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", FLOAT_NAMES)
def test_setp_of_floats(run: Run, name: str, kind: str) -> None:
    a, b = pairs(FLOATS[kind], FLOATS[kind])
    found = sweep(run, f"setp.{name}.{kind} %d, %a, %b;", np.bool_, a=a, b=b)
    np.testing.assert_array_equal(found, float_expected(name, a, b))


@pytest.mark.parametrize(("kind", "form"), [("f32", F32), ("f16", F16)])
def test_ftz_compares_subnormals_as_zeros(run: Run, kind: str, form: Any) -> None:
    a, b = pairs(FLOATS[kind], FLOATS[kind])
    flushed = [np.array([form.flushed(float(x)) for x in values]) for values in (a, b)]
    for name in ("lt", "neu"):
        found = sweep(run, f"setp.{name}.ftz.{kind} %d, %a, %b;", np.bool_, a=a, b=b)
        np.testing.assert_array_equal(found, float_expected(name, *flushed))
        combined = sweep(run, f"setp.{name}.or.ftz.{kind} %d, %a, %b, %c;", np.bool_, a=a, b=b, c=False)
        np.testing.assert_array_equal(combined, float_expected(name, *flushed))


@pytest.mark.parametrize("kind", ["b16", "b64", "s16", "s32", "u64", "f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("boolean", BOOLEAN)
def test_second_result_is_of_the_opposite(run: Run, boolean: str, kind: str) -> None:
    values = FLOATS[kind] if kind in FLOATS else integers({**BITS, **INTEGERS}[kind], 20)
    a, b = values[:32], values[:32][::-1]
    c = np.arange(len(a)) % 2 == 0
    compared = float_expected("ne", a, b) if kind in FLOATS else a != b
    out = {"d": np.bool_, "d2": np.bool_}
    a, b, c, compared = (np.resize(x, 32) for x in (a, b, c, compared))
    found = run(f"setp.ne.{boolean}.{kind} %d|%d2, %a, %b, %c;", a=a, b=b, c=c, out=out)
    np.testing.assert_array_equal(found["d"], BOOLEAN[boolean](compared, c))
    np.testing.assert_array_equal(found["d2"], BOOLEAN[boolean](~compared, c))
    negated = run(f"setp.ne.{boolean}.{kind} %d|%d2, %a, %b, !%c;", a=a, b=b, c=c, out=out)
    np.testing.assert_array_equal(negated["d"], BOOLEAN[boolean](compared, ~c))
    np.testing.assert_array_equal(negated["d2"], BOOLEAN[boolean](~compared, ~c))


def test_two_results_and_the_bit_bucket(run: Run) -> None:
    a = np.arange(32, dtype=np.int32)
    found = run("setp.lt.s32 %d|%d2, %a, 9;", a=a, out={"d": np.bool_, "d2": np.bool_})
    np.testing.assert_array_equal(found["d"], a < 9)
    np.testing.assert_array_equal(found["d2"], a >= 9)
    np.testing.assert_array_equal(run("setp.lt.s32 _|%d, %a, 9;", a=a, out={"d": np.bool_})["d"], a >= 9)


def test_inactive_lanes_keep_their_predicate(run: Run) -> None:
    a = np.arange(32, dtype=np.int32)
    found = run("setp.ge.s32 %d, %a, 0;", a=a, d=FALSE_LANES, out={"d": np.bool_}, active=a < 10)["d"]
    np.testing.assert_array_equal(found, np.where(a < 10, True, FALSE_LANES))


@pytest.mark.parametrize(("kind", "true"), [("u32", 0xFFFFFFFF), ("s32", 0xFFFFFFFF), ("f32", 0x3F800000)])
def test_set(run: Run, kind: str, true: int) -> None:
    c = np.arange(32) % 2 == 0
    a, b = integers(np.int64, 22)[:32], integers(np.int64, 22)[:32][::-1]
    found = run(f"set.lt.{kind}.s64 %d, %a, %b;", a=a, b=b)["d"]
    np.testing.assert_array_equal(found, np.where(a < b, true, 0))
    small = a.astype(np.uint16)
    np.testing.assert_array_equal(run(f"set.eq.{kind}.b16 %d, %a, 3;", a=small)["d"], np.where(small == 3, true, 0))
    combined = run(f"set.lt.xor.{kind}.s64 %d, %a, %b, !%c;", a=a, b=b, c=c)["d"]
    np.testing.assert_array_equal(combined, np.where((a < b) ^ ~c, true, 0))
    x, y = FLOATS["f32"][:32], FLOATS["f32"][::-1][:32]
    expected = float_expected("ltu", x, y)
    np.testing.assert_array_equal(run(f"set.ltu.{kind}.f32 %d, %a, %b;", a=x, b=y)["d"], np.where(expected, true, 0))
    found = run(f"set.ltu.and.{kind}.f32 %d, %a, %b, %c;", a=x, b=y, c=c)["d"]
    np.testing.assert_array_equal(found, np.where(expected & c, true, 0))


SELECTED: dict[str, Any] = {**BITS, **INTEGERS, "f32": np.float32, "f64": np.float64}


@pytest.mark.parametrize("kind", SELECTED)
def test_selp(run: Run, kind: str) -> None:
    a, b = (np.random.default_rng(i).integers(0, 1 << 16, 32).astype(SELECTED[kind]) for i in (1, 2))
    for mask in (np.ones(32, bool), np.arange(32) % 5 != 0):
        found = run(
            f"selp.{kind} %d, %a, %b, %c;", a=a, b=b, c=FALSE_LANES, d=b[::-1], out={"d": SELECTED[kind]}, active=mask
        )["d"]
        np.testing.assert_array_equal(found, np.where(mask, np.where(FALSE_LANES, a, b), b[::-1]))


def test_selp_of_immediates(run: Run) -> None:
    found = run("selp.f32 %d, 0fFF800000, %a, %c;", a=1.5, c=FALSE_LANES, out={"d": np.float32})["d"]
    np.testing.assert_array_equal(found, np.where(FALSE_LANES, -np.inf, np.float32(1.5)))
    found = run("selp.b16 %d, 1, 0, %c;", c=FALSE_LANES, out={"d": np.uint16})["d"]
    np.testing.assert_array_equal(found, FALSE_LANES.astype(np.uint16))


@pytest.mark.parametrize("kind", SELECTED)
def test_slct(run: Run, kind: str) -> None:
    a, b = (np.random.default_rng(i).integers(0, 1 << 16, 32).astype(SELECTED[kind]) for i in (1, 2))
    c = np.resize(integers(np.int32), 32)
    found = run(f"slct.{kind}.s32 %d, %a, %b, %c;", a=a, b=b, c=c, out={"d": SELECTED[kind]})["d"]
    np.testing.assert_array_equal(found, np.where(c >= 0, a, b))
    x = np.resize(floats(F32), 32)
    found = run(f"slct.{kind}.f32 %d, %a, %b, %c;", a=a, b=b, c=x, out={"d": SELECTED[kind]})["d"]
    np.testing.assert_array_equal(found, np.where(x >= 0, a, b))  # -0 is not negative, NaN chooses b
    found = run(f"slct.ftz.{kind}.f32 %d, %a, %b, %c;", a=a, b=b, c=x, out={"d": SELECTED[kind]})["d"]
    np.testing.assert_array_equal(found, np.where((x >= 0) | (np.abs(x) < 2.0**-126), a, b))


PROPERTIES: dict[str, Any] = {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "number": lambda x: ~np.isnan(x),
    "notanumber": np.isnan,
    "normal": lambda x: np.isfinite(x) & (np.abs(x) >= np.finfo(x.dtype).tiny),
    "subnormal": lambda x: np.abs(x) < np.finfo(x.dtype).tiny,
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_testp(run: Run, name: str) -> None:
    single = floats(F32)
    double = np.concatenate([single.astype(np.float64), [5e-324, -1e-310, 2.2e-308, 2.3e-308, 1.8e308]])
    for kind, a in (("f32", single), ("f64", double)):
        expected = PROPERTIES[name](a)
        assert_same_bits(sweep(run, f"testp.{name}.{kind} %d, %a;", np.bool_, a=a), expected, a)
