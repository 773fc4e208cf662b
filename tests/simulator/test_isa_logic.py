"""Logic and shifts against NumPy and Python's integers (PTX ISA, "Logic and Shift Instructions")."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lane_cases import BITS, INTEGERS, Run, assert_same_bits, integers, pairs, sweep, wrapped

OPERATIONS: dict[str, Any] = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
COUNTS = np.array([0, 1, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 0xFFFFFFFF], np.uint32)
ON, OFF = np.arange(32) % 2 == 1, np.arange(32) // 2 % 2 == 1  # all four combinations


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_two_operands(run: Run, name: str, kind: str) -> None:
    a, b = pairs(integers(BITS[kind], seed=1), integers(BITS[kind], seed=2))
    found = sweep(run, f"{name}.{kind} %d, %a, %b;", BITS[kind], a=a, b=b)
    assert_same_bits(found, OPERATIONS[name](a, b), a, b)


@pytest.mark.parametrize("name", OPERATIONS)
def test_two_predicates(run: Run, name: str) -> None:
    found = run(f"{name}.pred %d, %a, %b;", a=ON, b=OFF, out={"d": np.bool_})["d"]
    np.testing.assert_array_equal(found, OPERATIONS[name](ON, OFF))


def test_predicates_of_inactive_lanes_stay(run: Run) -> None:
    mask = np.arange(32) < 9
    found = run("or.pred %d, %d, %a;", a=ON, d=OFF, out={"d": np.bool_}, active=mask)["d"]
    np.testing.assert_array_equal(found, np.where(mask, ON | OFF, OFF))


@pytest.mark.parametrize("kind", BITS)
def test_not_and_cnot(run: Run, kind: str) -> None:
    a = integers(BITS[kind])
    assert_same_bits(sweep(run, f"not.{kind} %d, %a;", BITS[kind], a=a), ~a, a)
    assert_same_bits(sweep(run, f"cnot.{kind} %d, %a;", BITS[kind], a=a), (a == 0).astype(BITS[kind]), a)


def test_not_of_a_predicate(run: Run) -> None:
    np.testing.assert_array_equal(run("not.pred %d, %a;", a=ON, out={"d": np.bool_})["d"], ~ON)


@pytest.mark.parametrize("kind", BITS)
def test_shl_beyond_the_width_is_zero(run: Run, kind: str) -> None:
    a, b = pairs(integers(BITS[kind]), COUNTS)
    bits = np.iinfo(BITS[kind]).bits
    expected = wrapped([int(x) << int(y) if y < bits else 0 for x, y in zip(a, b, strict=True)], BITS[kind])
    assert_same_bits(sweep(run, f"shl.{kind} %d, %a, %b;", BITS[kind], a=a, b=b), expected, a, b)


@pytest.mark.parametrize("kind", [*BITS, *INTEGERS])
def test_shr_fills_with_the_sign_of_its_type(run: Run, kind: str) -> None:
    dtype = {**BITS, **INTEGERS}[kind]
    a, b = pairs(integers(dtype), COUNTS)
    expected = wrapped([int(x) >> min(int(y), 64) for x, y in zip(a, b, strict=True)], dtype)
    assert_same_bits(sweep(run, f"shr.{kind} %d, %a, %b;", dtype, a=a, b=b), expected, a, b)


@pytest.mark.parametrize("mode", ["wrap", "clamp"])
@pytest.mark.parametrize("direction", ["l", "r"])
def test_funnel_shifts(run: Run, direction: str, mode: str) -> None:
    a, c = pairs(integers(np.uint32), COUNTS)
    b = np.random.default_rng(1).choice(integers(np.uint32), len(a))
    counts = [int(x) & 31 if mode == "wrap" else min(int(x), 32) for x in c]
    whole = [int(high) << 32 | int(low) for low, high in zip(a, b, strict=True)]
    values = [x << n >> 32 if direction == "l" else x >> n for x, n in zip(whole, counts, strict=True)]
    found = sweep(run, f"shf.{direction}.{mode}.b32 %d, %a, %b, %c;", np.uint32, a=a, b=b, c=c)
    assert_same_bits(found, wrapped(values, np.uint32), a, b, c)


# The manual's way to a table: the same expression on 0xF0, 0xCC and 0xAA.
EXPRESSIONS: dict[str, Any] = {
    "and": lambda a, b, c: a & b & c,
    "majority": lambda a, b, c: a & b | b & c | a & c,
    "select": lambda a, b, c: a & b | ~a & c,
    "xor": lambda a, b, c: a ^ b ^ c,
    "only a": lambda a, b, c: a,
    "not b": lambda a, b, c: ~b,
    "nothing": lambda a, b, c: a & ~a,
    "mixed": lambda a, b, c: a & ~b ^ c,
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_lop3(run: Run, expression: str) -> None:
    f = EXPRESSIONS[expression]
    table = f(0xF0, 0xCC, 0xAA) & 0xFF
    a, b, c = np.random.default_rng(2).integers(0, 1 << 32, (3, 64), dtype=np.uint32)
    assert_same_bits(sweep(run, f"lop3.b32 %d, %a, %b, %c, {table:#x};", np.uint32, a=a, b=b, c=c), f(a, b, c), a, b, c)
