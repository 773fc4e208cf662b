"""Integer arithmetic against Python's integers (PTX ISA, "Integer Arithmetic Instructions")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lane_cases import BITS, INTEGERS, Run, assert_same_bits, integers, pairs, sweep, wrapped

DOUBLED = {"s16": np.int32, "u16": np.uint32, "s32": np.int64, "u32": np.uint64}


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


BINARY: dict[str, Callable[[int, int, int], int]] = {
    "add": lambda a, b, bits: a + b,
    "sub": lambda a, b, bits: a - b,
    "mul.lo": lambda a, b, bits: a * b,
    "mul.hi": lambda a, b, bits: a * b >> bits,
    "min": lambda a, b, bits: min(a, b),
    "max": lambda a, b, bits: max(a, b),
    "div": lambda a, b, bits: truncated(a, b) if b else -1,
    "rem": lambda a, b, bits: a - truncated(a, b) * b if b else a,
}


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("name", BINARY)
def test_two_operands(run: Run, name: str, kind: str) -> None:
    dtype = INTEGERS[kind]
    a, b = pairs(integers(dtype, seed=1), integers(dtype, seed=2))
    expected = wrapped([BINARY[name](int(x), int(y), np.iinfo(dtype).bits) for x, y in zip(a, b, strict=True)], dtype)
    assert_same_bits(sweep(run, f"{name}.{kind} %d, %a, %b;", dtype, a=a, b=b), expected, a, b)


TERNARY: dict[str, Callable[[int, int, int, int], int]] = {
    "mad.lo": lambda a, b, c, bits: a * b + c,
    "mad.hi": lambda a, b, c, bits: (a * b >> bits) + c,
    "sad": lambda a, b, c, bits: c + abs(a - b),
}


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("name", TERNARY)
def test_three_operands(run: Run, name: str, kind: str) -> None:
    dtype = INTEGERS[kind]
    a, b = pairs(integers(dtype, seed=1), integers(dtype, seed=2))
    c = np.random.default_rng(3).choice(integers(dtype, seed=3), len(a))
    values = [TERNARY[name](int(x), int(y), int(z), np.iinfo(dtype).bits) for x, y, z in zip(a, b, c, strict=True)]
    assert_same_bits(
        sweep(run, f"{name}.{kind} %d, %a, %b, %c;", dtype, a=a, b=b, c=c), wrapped(values, dtype), a, b, c
    )


@pytest.mark.parametrize("kind", DOUBLED)
def test_wide_products(run: Run, kind: str) -> None:
    dtype, wide = INTEGERS[kind], DOUBLED[kind]
    a, b = pairs(integers(dtype, seed=1), integers(dtype, seed=2))
    c = np.random.default_rng(4).choice(integers(wide, seed=3), len(a))
    product = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    assert_same_bits(sweep(run, f"mul.wide.{kind} %d, %a, %b;", wide, a=a, b=b), wrapped(product, wide), a, b)
    total = wrapped([x + int(y) for x, y in zip(product, c, strict=True)], wide)
    assert_same_bits(sweep(run, f"mad.wide.{kind} %d, %a, %b, %c;", wide, a=a, b=b, c=c), total, a, b, c)


def test_saturation_is_of_s32(run: Run) -> None:
    a, b = pairs(integers(np.int32, seed=1), integers(np.int32, seed=2))
    c = np.random.default_rng(5).choice(integers(np.int32), len(a))
    wide_a, wide_b, wide_c = (x.astype(object) for x in (a, b, c))
    low, high = -(1 << 31), (1 << 31) - 1
    for text, exact in [
        ("add.sat.s32 %d, %a, %b;", wide_a + wide_b),
        ("sub.sat.s32 %d, %a, %b;", wide_a - wide_b),
        ("mad.hi.sat.s32 %d, %a, %b, %c;", (wide_a * wide_b >> 32) + wide_c),
    ]:
        expected = np.array([min(max(x, low), high) for x in exact], np.int32)
        given = {"a": a, "b": b, **({"c": c} if "%c" in text else {})}
        assert_same_bits(sweep(run, text, np.int32, **given), expected, a, b, c)


def test_relu_of_s32(run: Run) -> None:
    a, b = pairs(integers(np.int32, seed=1), integers(np.int32, seed=2))
    least = sweep(run, "min.relu.s32 %d, %a, %b;", np.int32, a=a, b=b)
    assert_same_bits(least, np.maximum(np.minimum(a, b), 0), a, b)
    greatest = sweep(run, "max.relu.s32 %d, %a, %b;", np.int32, a=a, b=b)
    assert_same_bits(greatest, np.maximum(np.maximum(a, b), 0), a, b)


@pytest.mark.parametrize("kind", ["s16", "u16"])
@pytest.mark.parametrize(("name", "exact"), [("add", np.add), ("min", np.minimum), ("max", np.maximum)])
def test_packed_halves(run: Run, name: str, exact: Any, kind: str) -> None:
    dtype = INTEGERS[kind]
    a, b = (x.reshape(-1, 2) for x in pairs(integers(dtype, seed=1), integers(dtype, count=7, seed=2)))
    found = sweep(run, f"{name}.{kind}x2 %d, %a, %b;", (dtype, 2), a=a, b=b)
    np.testing.assert_array_equal(found, exact(a, b))


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_sign(run: Run, kind: str) -> None:
    a = integers(INTEGERS[kind])
    for name, exact in [("neg", lambda x: -x), ("abs", abs)]:
        expected = wrapped([exact(int(x)) for x in a], INTEGERS[kind])
        assert_same_bits(sweep(run, f"{name}.{kind} %d, %a;", INTEGERS[kind], a=a), expected, a)


@pytest.mark.parametrize("kind", ["b32", "b64"])
def test_counts_and_reversal(run: Run, kind: str) -> None:
    dtype = BITS[kind]
    bits = np.iinfo(dtype).bits
    a = integers(dtype, count=40)
    ones = np.array([int(x).bit_count() for x in a], np.uint32)
    assert_same_bits(sweep(run, f"popc.{kind} %d, %a;", np.uint32, a=a), ones, a)
    zeros = np.array([bits - int(x).bit_length() for x in a], np.uint32)
    assert_same_bits(sweep(run, f"clz.{kind} %d, %a;", np.uint32, a=a), zeros, a)
    reversed_ = np.array([int(f"{int(x):0{bits}b}"[::-1], 2) for x in a], dtype)
    assert_same_bits(sweep(run, f"brev.{kind} %d, %a;", dtype, a=a), reversed_, a)


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_bfind(run: Run, kind: str) -> None:
    dtype = INTEGERS[kind]
    top = np.iinfo(dtype).bits - 1
    a = integers(dtype, count=40)
    highest = [(int(x) if x >= 0 else ~int(x)).bit_length() - 1 for x in a]
    assert_same_bits(sweep(run, f"bfind.{kind} %d, %a;", np.uint32, a=a), wrapped(highest, np.uint32), a)
    shifts = wrapped([-1 if x == -1 else top - x for x in highest], np.uint32)
    assert_same_bits(sweep(run, f"bfind.shiftamt.{kind} %d, %a;", np.uint32, a=a), shifts, a)


# Positions and lengths at, before and past the ends; only their low bytes count.
FIELDS = [0, 1, 5, 16, 31, 32, 33, 63, 64, 65, 200, 255, 256, 257, 0xFFFFFF08]


def extracted(a: int, position: int, length: int, bits: int, signed: bool) -> int:
    """The manual's loop, bit by bit."""
    position, length = position & 0xFF, length & 0xFF
    sign = a >> min(position + length - 1, bits - 1) & 1 if signed and length else 0
    here = [a >> (position + i) & 1 if i < length and position + i < bits else sign for i in range(bits)]
    return sum(bit << i for i, bit in enumerate(here))


def inserted(a: int, b: int, position: int, length: int, bits: int) -> int:
    position, length = position & 0xFF, length & 0xFF
    for i in range(length):
        if position + i < bits:
            b = b & ~(1 << (position + i)) | (a >> i & 1) << (position + i)
    return b


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_bfe(run: Run, kind: str) -> None:
    dtype = INTEGERS[kind]
    b, c = pairs(np.array(FIELDS, np.uint32), np.array(FIELDS, np.uint32))
    a = np.random.default_rng(6).choice(integers(dtype), len(b))
    bits = np.iinfo(dtype).bits
    values = [
        extracted(int(x) & ((1 << bits) - 1), int(y), int(z), bits, kind[0] == "s")
        for x, y, z in zip(a, b, c, strict=True)
    ]
    assert_same_bits(sweep(run, f"bfe.{kind} %d, %a, %b, %c;", dtype, a=a, b=b, c=c), wrapped(values, dtype), a, b, c)


@pytest.mark.parametrize("kind", ["b32", "b64"])
def test_bfi(run: Run, kind: str) -> None:
    dtype = BITS[kind]
    c, e = pairs(np.array(FIELDS, np.uint32), np.array(FIELDS, np.uint32))
    a, b = np.random.default_rng(7).choice(integers(dtype), (2, len(c)))
    bits = np.iinfo(dtype).bits
    values = [inserted(*map(int, operands), bits) for operands in zip(a, b, c, e, strict=True)]
    found = sweep(run, f"bfi.{kind} %d, %a, %b, %c, %e;", dtype, a=a, b=b, c=c, e=e)
    assert_same_bits(found, np.array(values, dtype), a, b, c, e)


def test_immediates_and_inactive_lanes(run: Run) -> None:
    a = np.arange(32, dtype=np.int32)
    mask = a % 3 == 0
    found = run("add.s32 %d, %a, -5;", a=a, d=np.full(32, 77, np.int32), out={"d": np.int32}, active=mask)["d"]
    np.testing.assert_array_equal(found, np.where(mask, a - 5, 77))


def test_result_may_replace_an_operand(run: Run) -> None:
    a = np.arange(32, dtype=np.int32)
    found = run("mad.lo.s32 %d, %d, %d, %d;", d=a, out={"d": np.int32})["d"]
    np.testing.assert_array_equal(found, a * a + a)
