"""Conversions against Python's integers (PTX ISA, cvt)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from lane_cases import BF16, F16, F32, Format, Run, assert_same_bits, dyadic, floats, integers, pairs, sweep, wrapped

KINDS = ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"]
ROUNDINGS = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}
MODES = ["rn", "rz", "rm", "rp"]
FORMATS: dict[str, Format] = {"f16": F16, "bf16": BF16, "f32": F32}


def bits_of(kind: str) -> int:
    return int(kind[1:])


def registers_of(kind: str) -> list[Any]:
    """Unsigned dtypes of the registers that may hold it; the last is wider than it must be."""
    return [np.dtype(f"u{size}") for size in (2, 4, 8) if 8 * size >= bits_of(kind)][:2]


def low(value: int, kind: str) -> int:
    """Its low bits, read as the type says."""
    bits = bits_of(kind)
    value &= (1 << bits) - 1
    return value - (1 << bits) if kind[0] == "s" and value >> (bits - 1) else value


def ends(kind: str) -> tuple[int, int]:
    bits = bits_of(kind)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_integers_are_chopped_and_extended(run: Run, target: str, source: str) -> None:
    for source_register in registers_of(source):
        a = integers(source_register, 14)
        for register in registers_of(target):
            found = sweep(run, f"cvt.{target}.{source} %d, %a;", register, a=a)
            assert_same_bits(found, wrapped([low(low(int(x), source), target) for x in a], register), a)
            found = sweep(run, f"cvt.sat.{target}.{source} %d, %a;", register, a=a)
            least, most = ends(target)
            assert_same_bits(found, wrapped([min(max(low(int(x), source), least), most) for x in a], register), a)


def float_register(kind: str) -> Any:
    return {**{name: form.dtype for name, form in FORMATS.items()}, "f64": np.float64}[kind]


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", FORMATS)
def test_integers_to_floats(run: Run, target: str, mode: str, source: str) -> None:
    form = FORMATS[target]
    a = integers(registers_of(source)[-1], 40)
    values = [low(int(x), source) for x in a]
    expected = form.array([form.round(dyadic(x), mode) if x else 0.0 for x in values])
    assert_same_bits(sweep(run, f"cvt.{mode}.{target}.{source} %d, %a;", form.dtype, a=a), expected, a)
    own = a.astype(registers_of(source)[0])
    expected = form.array([form.round(dyadic(low(int(x), source)), mode) if low(int(x), source) else 0.0 for x in own])
    assert_same_bits(sweep(run, f"cvt.{mode}.{target}.{source} %d, %a;", form.dtype, a=own), expected, own)


@pytest.mark.parametrize("source", KINDS)
def test_integers_to_double(run: Run, source: str) -> None:
    a = integers(registers_of(source)[0], 40)
    expected = np.array([float(low(int(x), source)) for x in a])
    assert_same_bits(sweep(run, f"cvt.rn.f64.{source} %d, %a;", np.float64, a=a), expected, a)


def whole_numbers(form: str) -> Any:
    """Halves, neighbours of the integer types' ends, and everything else."""
    halves = np.arange(-4, 4.5, 0.5)
    powers = np.array([2.0**n for n in (7, 8, 15, 16, 31, 32, 63, 64)])
    edges = np.concatenate([halves, *(s * (powers + d) for s in (1, -1) for d in (-1, -0.5, 0, 0.5, 1))])
    others = floats(FORMATS.get(form, F32)).astype(np.float64)
    with np.errstate(over="ignore"):
        return np.concatenate([edges, others, [0.49999999999999994, 1e300]]).astype(float_register(form))


@pytest.mark.parametrize("source", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("target", KINDS)
def test_floats_to_integers_clamp(run: Run, target: str, rounding: str, source: str) -> None:
    a = whole_numbers(source)
    least, most = ends(target)
    nan = 1 << (bits_of(target) - 1) if source == "f64" or bits_of(target) == 64 else 0

    def expected(x: float) -> int:
        if math.isnan(x):
            return low(nan, target)
        if math.isinf(x):
            return most if x > 0 else least
        return min(max(ROUNDINGS[rounding](x), least), most)

    for register in registers_of(target):
        for flags in ["", ".sat", *([".ftz"] if source == "f32" else [])]:
            given = [F32.flushed(float(x)) if flags == ".ftz" else float(x) for x in a]
            found = sweep(run, f"cvt.{rounding}{flags}.{target}.{source} %d, %a;", register, a=a)
            assert_same_bits(found, wrapped([expected(x) for x in given], register), a)


def test_widening_is_exact(run: Run) -> None:
    for kind in ("f16", "bf16"):
        a = np.arange(0, 1 << 16, 31, dtype=np.uint16).view(FORMATS[kind].dtype)
        with np.errstate(invalid="ignore"):
            a = a[~np.isnan(a)]
        for ftz in ["", ".ftz"] if kind == "f16" else [""]:  # no half is a subnormal float
            found = sweep(run, f"cvt{ftz}.f32.{kind} %d, %a;", np.float32, a=a)
            assert_same_bits(found, a.astype(np.float32), a)
    a = floats(F32)
    number = ~np.isnan(a)
    found = sweep(run, "cvt.f64.f32 %d, %a;", np.float64, a=a)
    assert_same_bits(found[number], a[number].astype(np.float64), a)
    assert np.isnan(found[~number]).all()
    flushed = np.array([F32.flushed(float(x)) for x in a])
    found = sweep(run, "cvt.ftz.f64.f32 %d, %a;", np.float64, a=a)
    assert_same_bits(found[number], flushed[number], a)


def narrowing_inputs(form: Format, seed: int = 0) -> Any:
    """Floats near the numbers of a narrow format and near the middles between them, and its ends."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 1 << 16, 300, dtype=np.uint16)
    values = bits.view(form.dtype).astype(np.float32)
    cut = 24 - form.precision
    middles = (values.view(np.uint32) + np.uint32(1 << (cut - 1))).view(np.float32)
    steps = random.integers(-1, 2, 300, dtype=np.int32)
    near = (middles.view(np.int32) + steps).view(np.float32)
    subnormal = (random.standard_normal(60) * 2.0 ** (form.least_exponent - 3)).astype(np.float32)
    return np.concatenate([values, near, subnormal, floats(F32), floats(form).astype(np.float32)])


def narrowed(form: Format, mode: str, flags: str, a: Any) -> Any:
    values = []
    for x in a:
        value = float(x)
        if math.isfinite(value) and value:
            value = form.round(dyadic(value), mode)
        if "satfinite" in flags and math.isinf(value):
            value = math.copysign(form.greatest, value)
        if "relu" in flags and (value <= 0 or math.copysign(1.0, value) < 0):
            value = value if math.isnan(value) else 0.0
        values.append(value)
    return form.array(values)


FLAGS = ["", ".relu", ".satfinite", ".relu.satfinite"]


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_narrowing(run: Run, kind: str, mode: str, flags: str) -> None:
    form = FORMATS[kind]
    a = narrowing_inputs(form)
    found = sweep(run, f"cvt.{mode}{flags}.{kind}.f32 %d, %a;", form.dtype, a=a)
    assert_same_bits(found, narrowed(form, mode, flags, a), a)


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("mode", ["rn", "rz"])
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_narrowing_two_puts_the_first_into_the_upper_half(run: Run, kind: str, mode: str, flags: str) -> None:
    form = FORMATS[kind]
    a, b = narrowing_inputs(form, 1), narrowing_inputs(form, 2)
    found = sweep(run, f"cvt.{mode}{flags}.{kind}x2.f32 %d, %a, %b;", (form.dtype, 2), a=a, b=b)
    assert_same_bits(found[:, 1].copy(), narrowed(form, mode, flags, a), a)
    assert_same_bits(found[:, 0].copy(), narrowed(form, mode, flags, b), b)


@pytest.mark.parametrize("mode", MODES)
def test_double_to_float(run: Run, mode: str) -> None:
    random = np.random.default_rng(3)
    values = floats(F32).astype(np.float64)
    near = np.concatenate([np.nextafter(values, np.inf), np.nextafter(values, -np.inf)])
    middles = random.standard_normal(40).astype(np.float32).astype(np.float64) * (1 + 2.0**-24)
    a = np.concatenate([values, near, middles, random.standard_normal(40) * 2.0**-140, [1e300, -1e300]])
    for flags in ["", ".ftz", ".sat"]:
        expected = []
        for x in map(float, a):
            value = F32.round(dyadic(x), mode) if math.isfinite(x) and x else x
            value = F32.flushed(value) if flags == ".ftz" else value
            if flags == ".sat":
                value = min(value, 1.0) if value > 0 else 0.0
            expected.append(value)
        found = sweep(run, f"cvt.{mode}{flags}.f32.f64 %d, %a;", np.float32, a=a)
        assert_same_bits(found, F32.array(expected), a)


@pytest.mark.parametrize("rounding", ["", *ROUNDINGS])
def test_float_to_whole_float(run: Run, rounding: str) -> None:
    a = whole_numbers("f32")
    for flags in ["", ".ftz", ".sat", ".ftz.sat"]:
        expected = []
        for x in map(float, a):
            value = F32.flushed(x) if "ftz" in flags else x
            if rounding and math.isfinite(value):
                value = math.copysign(float(ROUNDINGS[rounding](value)), value)
            if "sat" in flags:
                value = min(value, 1.0) if value > 0 else 0.0
            expected.append(value)
        text = f"cvt{'.' * bool(rounding)}{rounding}{flags}.f32.f32 %d, %a;"
        assert_same_bits(sweep(run, text, np.float32, a=a), F32.array(expected), a)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_double_to_whole_double(run: Run, rounding: str) -> None:
    a = whole_numbers("f64")
    a = a[np.isfinite(a)]
    expected = np.array([math.copysign(float(ROUNDINGS[rounding](x)), x) for x in map(float, a)])
    assert_same_bits(sweep(run, f"cvt.{rounding}.f64.f64 %d, %a;", np.float64, a=a), expected, a)


def test_inactive_lanes_stay(run: Run) -> None:
    a = np.arange(32, dtype=np.float32)
    mask = a % 2 == 0
    old = np.full(32, -7, np.int64)
    found = run("cvt.rzi.s64.f32 %d, %a;", a=a, d=old, out={"d": np.int64}, active=mask)["d"]
    np.testing.assert_array_equal(found, np.where(mask, a, -7))
    found = run("cvt.s64.s32 %d, %a;", a=a.astype(np.int32), d=old, out={"d": np.int64}, active=mask)["d"]
    np.testing.assert_array_equal(found, np.where(mask, a, -7))
    one, other = pairs(np.array([1.0, 2.0], np.float32), np.array([3.0, 4.0], np.float32))
    assert_same_bits(
        sweep(run, "cvt.rn.bf16x2.f32 %d, %a, %b;", np.uint32, a=one, b=other),
        np.array([0x3F804040, 0x3F804080, 0x40004040, 0x40004080], np.uint32),
    )
