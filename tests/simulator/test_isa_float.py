"""Floating-point arithmetic against exact results rounded once (PTX ISA, "Floating Point Instructions")."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lane_cases import (
    BF16,
    F16,
    F32,
    Format,
    Run,
    arithmetic,
    assert_same_bits,
    float_triples,
    floats,
    pairs,
    sweep,
)

MODES = ["rn", "rz", "rm", "rp"]
FORMATS = {"f32": F32, "f16": F16, "bf16": BF16}


def operands_of(name: str, form: Format, seed: int) -> tuple[Any, ...]:
    if name == "fma":
        return float_triples(form, seed)
    a, b, c = float_triples(form, seed, 320)
    edges = pairs(floats(form, 2, seed), floats(form, 2, seed + 1))
    if name != "mul":  # sums that all but cancel are made of a product and its negative
        with np.errstate(all="ignore"):
            a = (a.astype(np.float64) * b.astype(np.float64)).astype(form.dtype)
        b = c
    return np.concatenate([edges[0], a]), np.concatenate([edges[1], b])


def expected_of(name: str, form: Format, mode: str, *operands: Any, ftz: bool = False, sat: bool = False) -> Any:
    values = []
    for lane in zip(*(x.astype(np.float64) for x in operands), strict=True):
        given = [form.flushed(float(x)) if ftz else float(x) for x in lane]
        value = arithmetic(name, form, mode, *given)
        value = form.flushed(value) if ftz else value
        if sat:
            value = 0.0 if np.isnan(value) or value <= 0 else min(value, 1.0)
        values.append(value)
    return form.array(values)


def given(operands: Any) -> dict[str, Any]:
    return dict(zip("abc", operands, strict=False))


def text_of(opcode: str, operands: Any) -> str:
    return f"{opcode} %d, {', '.join('%' + name for name in given(operands))};"


@pytest.mark.parametrize("flags", ["", ".ftz", ".sat", ".ftz.sat"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma", "mad"])
def test_single_precision(run: Run, name: str, mode: str, flags: str) -> None:
    operation = "fma" if name == "mad" else name
    operands = operands_of(operation, F32, seed=MODES.index(mode))
    expected = expected_of(operation, F32, mode, *operands, ftz="ftz" in flags, sat="sat" in flags)
    found = sweep(run, text_of(f"{name}.{mode}{flags}.f32", operands), np.float32, **given(operands))
    assert_same_bits(found, expected, *operands)


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_rounding_is_to_nearest_unless_written(run: Run, name: str) -> None:
    operands = operands_of(name, F32, seed=9)
    found = sweep(run, text_of(f"{name}.f32", operands), np.float32, **given(operands))
    assert_same_bits(found, expected_of(name, F32, "rn", *operands), *operands)


@pytest.mark.parametrize("flags", ["", ".ftz"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma"])
def test_pairs_of_single_precision(run: Run, name: str, mode: str, flags: str) -> None:
    operands = tuple(x[: len(x) // 2 * 2] for x in operands_of(name, F32, seed=20 + MODES.index(mode)))
    expected = expected_of(name, F32, mode, *operands, ftz=bool(flags))
    packed = {key: x.reshape(-1, 2) for key, x in given(operands).items()}
    found = sweep(run, text_of(f"{name}.{mode}{flags}.f32x2", operands), (np.float32, 2), **packed)
    assert_same_bits(found.reshape(-1), expected, *operands)


@pytest.mark.parametrize("sat", ["", ".sat"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("name", ["add", "sub", "fma"])
def test_mixed_precision(run: Run, name: str, kind: str, mode: str, sat: str) -> None:
    """Narrow factors or first summand, the last operand and the result in single precision."""
    narrow = FORMATS[kind]
    if name == "fma":
        a, b, c = float_triples(narrow, 30, 448)
        operands: tuple[Any, ...] = (a, b, (c.astype(np.float64) * (1 + 2.0**-20)).astype(np.float32))
    else:
        operands = pairs(floats(narrow, 8), floats(F32, 8))
    with np.errstate(invalid="ignore"):
        expected = expected_of(name, F32, mode, *operands, sat=bool(sat))
    found = sweep(run, text_of(f"{name}.{mode}{sat}.f32.{kind}", operands), np.float32, **given(operands))
    assert_same_bits(found, expected, *operands)


@pytest.mark.parametrize("kind", ["f16", "f16x2"])
@pytest.mark.parametrize("flags", ["", ".ftz", ".sat", ".ftz.sat"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma"])
def test_half_precision(run: Run, name: str, flags: str, kind: str) -> None:
    check_halves(run, name, F16, flags, kind)


@pytest.mark.parametrize("kind", ["bf16", "bf16x2"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma"])
def test_bfloat16(run: Run, name: str, kind: str) -> None:
    check_halves(run, name, BF16, "", kind)


def check_halves(run: Run, name: str, form: Format, flags: str, kind: str) -> None:
    operands = tuple(x[: len(x) // 2 * 2] for x in operands_of(name, form, seed=40))
    expected = expected_of(name, form, "rn", *operands, ftz="ftz" in flags, sat="sat" in flags)
    packed = kind.endswith("x2")
    registers = {key: x.reshape(-1, 2) if packed else x for key, x in given(operands).items()}
    out = (form.dtype, 2) if packed else form.dtype
    found = sweep(run, text_of(f"{name}.rn{flags}.{kind}", operands), out, **registers)
    assert_same_bits(found.reshape(-1), expected, *operands)


@pytest.mark.parametrize("kind", ["f16", "bf16", "f16x2", "bf16x2"])
def test_relu_of_narrow_fma(run: Run, kind: str) -> None:
    form = FORMATS[kind.removesuffix("x2")]
    operands = float_triples(form, 50)
    expected = expected_of("fma", form, "rn", *operands)
    with np.errstate(invalid="ignore"):
        expected = np.where(expected <= 0, form.dtype(0), expected)
    packed = kind.endswith("x2")
    registers = {key: x.reshape(-1, 2) if packed else x for key, x in given(operands).items()}
    out = (form.dtype, 2) if packed else form.dtype
    found = sweep(run, text_of(f"fma.rn.relu.{kind}", operands), out, **registers)
    assert_same_bits(found.reshape(-1), expected, *operands)


@pytest.mark.parametrize("rounding", ["", ".rn"])
def test_double_precision(run: Run, rounding: str) -> None:
    random = np.random.default_rng(60)
    a, b = random.standard_normal((2, 256)) * 2.0 ** random.integers(-300, 300, (2, 256))
    with np.errstate(all="ignore"):
        for name, expected in [("add", a + b), ("sub", a - b), ("mul", a * b)]:
            assert_same_bits(sweep(run, f"{name}{rounding}.f64 %d, %a, %b;", np.float64, a=a, b=b), expected, a, b)


@pytest.mark.parametrize("name", ["fma", "mad"])
def test_double_precision_fuses(run: Run, name: str) -> None:
    a = np.random.default_rng(61).standard_normal(64)
    rest = sweep(run, f"{name}.rn.f64 %d, %a, %a, %c;", np.float64, a=a, c=-(a * a))
    exact = [float(int(x * 2**60) ** 2 - int(x * x * 2**120)) / 2**120 for x in np.abs(np.round(a * 2**60) / 2**60)]
    np.testing.assert_array_equal(rest, exact)


def extreme(name: str, a: Any, b: Any, nan_wins: bool) -> Any:
    """By total order of (value, sign); of a number and a NaN the number."""
    choose = max if name == "max" else min
    values = []
    for x, y in zip(a, b, strict=True):
        numbers = [float(v) for v in (x, y) if not np.isnan(v)]
        some_nan = len(numbers) < 2
        key = lambda v: (v, np.copysign(1, v))  # noqa: E731
        values.append(np.nan if (some_nan and nan_wins) or not numbers else choose(numbers, key=key))
    return np.array(values)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "f16x2", "bf16x2"])
@pytest.mark.parametrize("nan", ["", ".NaN"])
@pytest.mark.parametrize("name", ["min", "max"])
def test_min_and_max(run: Run, name: str, nan: str, kind: str) -> None:
    form = FORMATS[kind.removesuffix("x2")]
    a, b = pairs(floats(form, 6, 1), floats(form, 6, 2)[1:])
    packed = kind.endswith("x2")
    registers = {"a": a.reshape(-1, 2) if packed else a, "b": b.reshape(-1, 2) if packed else b}
    out = (form.dtype, 2) if packed else form.dtype
    for ftz in [False, True] if "bf16" not in kind else [False]:
        flushed = [np.array([form.flushed(float(v)) if ftz else float(v) for v in x]) for x in (a, b)]
        expected = form.array(extreme(name, *flushed, bool(nan)))
        found = sweep(run, f"{name}{'.ftz' * ftz}{nan}.{kind} %d, %a, %b;", out, **registers)
        assert_same_bits(found.reshape(-1), expected, a, b)


@pytest.mark.parametrize("flags", ["", ".ftz", ".NaN", ".ftz.NaN"])
@pytest.mark.parametrize("name", ["min", "max"])
def test_min_and_max_of_three(run: Run, name: str, flags: str) -> None:
    a, b, c = float_triples(F32, 70, 320)
    read = F32.flushed if "ftz" in flags else float
    x, y, z = (np.array([read(float(v)) for v in values]) for values in (a, b, c))
    expected = F32.array(extreme(name, extreme(name, x, y, "NaN" in flags), z, "NaN" in flags))
    found = sweep(run, f"{name}{flags}.f32 %d, %a, %b, %c;", np.float32, a=a, b=b, c=c)
    assert_same_bits(found, expected, a, b, c)


def test_min_and_max_of_doubles(run: Run) -> None:
    a, b = (x.astype(np.float64) for x in pairs(floats(F32, 4, 1), floats(F32, 4, 2)))
    number = ~(np.isnan(a) & np.isnan(b))
    for name in ("min", "max"):
        found = sweep(run, f"{name}.f64 %d, %a, %b;", np.float64, a=a, b=b)
        assert_same_bits(found[number], extreme(name, a, b, False)[number], a, b)
        assert np.isnan(found[~number]).all()


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16", "f16x2", "bf16x2"])
def test_neg_and_abs_change_the_sign_bit_only(run: Run, kind: str) -> None:
    size = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2, "f16x2": 4, "bf16x2": 4}[kind]
    element = 2 if kind.endswith("x2") else size
    a = np.random.default_rng(80).integers(0, 256, (128, size), dtype=np.uint8).view(f"u{size}")[:, 0]
    sign = np.array([1 << 8 * element - 1] * (size // element), f"u{element}").view(f"u{size}")[0]
    assert_same_bits(sweep(run, f"neg.{kind} %d, %a;", a.dtype, a=a), a ^ sign, a)
    assert_same_bits(sweep(run, f"abs.{kind} %d, %a;", a.dtype, a=a), a & ~sign, a)


def test_neg_and_abs_flush_with_ftz(run: Run) -> None:
    a = floats(F32)
    a = a[~np.isnan(a)]
    flushed = np.array([F32.flushed(float(x)) for x in a], np.float32)
    assert_same_bits(sweep(run, "neg.ftz.f32 %d, %a;", np.float32, a=a), -flushed, a)
    assert_same_bits(sweep(run, "abs.ftz.f32 %d, %a;", np.float32, a=a), np.abs(flushed), a)


@pytest.mark.parametrize(("kind", "dtype"), [("f32", np.float32), ("f64", np.float64)])
def test_copysign_takes_the_sign_of_the_first(run: Run, kind: str, dtype: Any) -> None:
    a, b = (x.astype(dtype) for x in pairs(floats(F32, 2), floats(F32, 2)))
    assert_same_bits(sweep(run, f"copysign.{kind} %d, %a, %b;", dtype, a=a, b=b), np.copysign(b, a), a, b)


def test_inactive_lanes_stay(run: Run) -> None:
    a = np.arange(32, dtype=np.float32)
    mask = a % 2 == 0
    for text in ("fma.rn.f32 %d, %a, %a, 0f3F800000;", "fma.rn.ftz.f32 %d, %a, %a, 0f3F800000;"):
        found = run(text, a=a, d=-a, out={"d": np.float32}, active=mask)["d"]
        np.testing.assert_array_equal(found, np.where(mask, a * a + 1, -a))


CORRECT: dict[str, Any] = {
    "div.rn": lambda a, b: a / b,
    "rcp.rn": lambda a, b: 1 / a,
    "sqrt.rn": lambda a, b: np.sqrt(a),
}


@pytest.mark.parametrize("flags", ["", ".ftz"])
@pytest.mark.parametrize("name", CORRECT)
def test_correctly_rounded_division_and_root(run: Run, name: str, flags: str) -> None:
    """A quotient or root in double is never so close to the middle of two floats that rounding twice matters."""
    a, b = pairs(floats(F32, 16, 1), floats(F32, 16, 2))
    x, y = (np.array([F32.flushed(float(v)) if flags else float(v) for v in values]) for values in (a, b))
    with np.errstate(all="ignore"):
        exact = CORRECT[name](x, y)
        subnormal = (exact != 0) & (np.abs(exact) < 2.0**-126)
        directly = CORRECT[name](x.astype(np.float32), y.astype(np.float32))
        rounded = np.where(subnormal, directly, exact).astype(np.float32)
    expected = F32.array([F32.flushed(float(v)) if flags else float(v) for v in rounded])
    text = f"{name}{flags}.f32 %d, %a{', %b' if 'div' in name else ''};"
    found = sweep(run, text, np.float32, **({"a": a, "b": b} if "div" in name else {"a": a}))
    assert_same_bits(found, expected, a, b)


@pytest.mark.parametrize("name", CORRECT)
def test_correctly_rounded_in_double(run: Run, name: str) -> None:
    a, b = np.random.default_rng(90).uniform(0.1, 9, (2, 64))
    text = f"{name}.f64 %d, %a{', %b' if 'div' in name else ''};"
    found = sweep(run, text, np.float64, **({"a": a, "b": b} if "div" in name else {"a": a}))
    assert_same_bits(found, CORRECT[name](a, b), a, b)
