"""What the tests of lane-wise instructions share: values worth trying, warps of 32 at a time, and exact rounding."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

Run = Callable[..., Any]
LANES = 32

INTEGERS: dict[str, Any] = {
    "s16": np.int16, "u16": np.uint16, "s32": np.int32, "u32": np.uint32, "s64": np.int64, "u64": np.uint64,
}  # fmt: skip
BITS: dict[str, Any] = {"b16": np.uint16, "b32": np.uint32, "b64": np.uint64}


def sweep(run: Run, text: str, out: DTypeLike, **registers: Any) -> NDArray[Any]:
    """%d after the text, for inputs of any equal length; scalars stand in all lanes."""
    length = max(len(value) for value in registers.values() if np.ndim(value))
    parts = []
    for begin in range(0, length, LANES):
        lanes = np.minimum(np.arange(begin, begin + LANES), length - 1)
        chunk = {name: value[lanes] if np.ndim(value) else value for name, value in registers.items()}
        parts.append(run(text, out={"d": out}, **chunk)["d"])
    return np.concatenate(parts)[:length]


def pairs(values: NDArray[Any], others: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Every value with every other."""
    return np.repeat(values, len(others)), np.tile(others, len(values))


def integers(dtype: Any, count: int = 8, seed: int = 0) -> NDArray[Any]:
    """The ends, the middle, and `count` others, some of them small."""
    info = np.iinfo(dtype)
    edges = {info.min, info.min + 1, info.max, info.max - 1, info.max // 2, 0, 1, 2, 3, 7}
    edges |= {-1, -2, -7} if info.min < 0 else {info.max // 2 + 1, info.max // 2 + 2}
    random = np.random.default_rng(seed)
    drawn = random.integers(info.min, info.max, count, dtype=dtype, endpoint=True)
    drawn[count // 2 :] >>= np.array(info.bits // 2, dtype)
    return np.concatenate([np.array(sorted(edges), dtype), drawn])


def wrapped(values: Any, dtype: Any) -> NDArray[Any]:
    """Python integers modulo 2^bits, as dtype."""
    bits = np.iinfo(dtype).bits
    unsigned = np.array([int(value) & ((1 << bits) - 1) for value in values], np.dtype(f"u{bits // 8}"))
    return unsigned.view(dtype)


def assert_same_bits(found: NDArray[Any], expected: NDArray[Any], *inputs: NDArray[Any]) -> None:
    """Equal bit by bit; the first difference is shown with the inputs that led to it."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    kind = f"u{found.dtype.itemsize}"
    wrong = np.flatnonzero(found.view(kind) != expected.view(kind))
    if len(wrong):
        i = wrong[0]
        raise AssertionError(
            f"{len(wrong)} of {len(found)} differ; [{i}]: {found[i]!r} ({found.view(kind)[i]:#x}) instead of "
            f"{expected[i]!r} ({expected.view(kind)[i]:#x}) from {[value[i] for value in inputs]}"
        )


Dyadic = tuple[int, int]  # a number w * 2^e, exactly


def dyadic(value: float | int) -> Dyadic:
    """A float or an integer of any size."""
    if isinstance(value, int):
        return value, 0
    fraction, exponent = math.frexp(value)
    return int(fraction * 2.0**53), exponent - 53


def _times(a: Dyadic, b: Dyadic) -> Dyadic:
    return a[0] * b[0], a[1] + b[1]


def _plus(a: Dyadic, b: Dyadic) -> Dyadic:
    exponent = min(a[1], b[1])
    return (a[0] << (a[1] - exponent)) + (b[0] << (b[1] - exponent)), exponent


@dataclass(frozen=True)
class Format:
    """A binary floating-point format."""

    dtype: Any
    precision: int
    least_exponent: int
    greatest: float
    nan: int

    def array(self, values: Sequence[float]) -> NDArray[Any]:
        """Exactly these values; NaN is the canonical one."""
        result = np.array(values, np.float64).astype(self.dtype)
        result.view(f"u{result.itemsize}")[np.isnan(np.array(values, np.float64))] = self.nan
        return result

    def round(self, value: Dyadic, mode: str) -> float:
        """A number that is not zero, rounded to nearest even (rn), to zero (rz), down (rm) or up (rp)."""
        whole, exponent = value
        top = whole.bit_length() - 1 + exponent  # of |whole|
        last_place = max(top, self.least_exponent) - self.precision + 1
        cut = max(last_place - exponent, 0)
        below, rest, half = whole >> cut, whole & ((1 << cut) - 1), 1 << cut >> 1
        if mode == "rn":
            below += rest > half or (rest == half > 0 and below & 1)
        elif mode == "rp" or (mode == "rz" and whole < 0):
            below += rest > 0
        result = math.ldexp(below, exponent + cut) if top < 1000 else math.inf
        if abs(result) > self.greatest:
            inward = mode == "rz" or (mode == "rm" and whole > 0) or (mode == "rp" and whole < 0)
            result = self.greatest if inward else math.inf
        return math.copysign(result, whole)

    def flushed(self, value: float) -> float:
        """Subnormals as zeros of their sign."""
        return math.copysign(0.0, value) if abs(value) < 2.0**self.least_exponent else value


F32 = Format(np.float32, 24, -126, float(np.finfo(np.float32).max), 0x7FFFFFFF)
F16 = Format(np.float16, 11, -14, 65504.0, 0x7FFF)
BF16 = Format(ml_dtypes.bfloat16, 8, -126, float(ml_dtypes.finfo(ml_dtypes.bfloat16).max), 0x7FFF)


def floats(form: Format, count: int = 12, seed: int = 0) -> NDArray[Any]:
    """Zeros, infinities, NaN, the ends of the normal and subnormal ranges, neighbours of 1, and random bits."""
    step = 2.0 ** (1 - form.precision)
    tiny, normal = 2.0 ** (form.least_exponent - form.precision + 1), 2.0**form.least_exponent
    positive = [0.0, tiny, 3 * tiny, normal - tiny, normal, 0.5, 1 - step / 2, 1.0, 1 + step, 1.5, 3.0]
    positive += [form.greatest * (1 - step), form.greatest, math.inf, 1 / step, 2 / step]
    edges = np.array([*positive, *(-x for x in positive), math.nan], np.float64).astype(form.dtype)
    random = np.random.default_rng(seed)
    unsigned = np.dtype(f"u{edges.itemsize}")
    anything = random.integers(0, 1 << 8 * edges.itemsize, count, dtype=np.uint64).astype(unsigned).view(form.dtype)
    return np.concatenate([edges, anything, random.standard_normal(count).astype(form.dtype)])


def float_triples(form: Format, seed: int = 0, count: int = 640) -> tuple[NDArray[Any], ...]:
    """Operands of a fused multiply-add: mixed edges, and sums that all but cancel."""
    random = np.random.default_rng(seed)
    a, b, c = (random.choice(floats(form, seed=seed + i), count) for i in range(3))
    half = count // 2
    a[half:], b[half:] = (random.standard_normal((2, count - half)) * 3).astype(form.dtype)
    product = a[half:].astype(np.float64) * b[half:].astype(np.float64)
    slightly_off = random.choice([1, 1, 1 + 2.0 ** (1 - form.precision), 2.0**-20], count - half)
    c[half:] = (-product * slightly_off).astype(form.dtype)
    return a, b, c


def _exact(terms: Sequence[Sequence[float]], form: Format, mode: str) -> float:
    """A sum of products, rounded once."""
    products = [reduce(operator.mul, term) for term in terms]  # for signs of zeros, infinities and NaN
    if not all(math.isfinite(factor) for term in terms for factor in term):
        return sum(products)
    value = reduce(_plus, (reduce(_times, map(dyadic, term)) for term in terms))
    if value[0]:
        return form.round(value, mode)
    signs = {math.copysign(1.0, product) for product in products}
    return math.copysign(0.0, signs.pop() if len(signs) == 1 else -1.0 if mode == "rm" else 1.0)


def arithmetic(operation: str, form: Format, mode: str, *operands: float) -> float:
    """add, sub, mul or fma of a floating-point format, from exact fractions."""
    if operation == "add":
        return _exact([[operands[0]], [operands[1]]], form, mode)
    if operation == "sub":
        return _exact([[operands[0]], [-operands[1]]], form, mode)
    if operation == "mul":
        return _exact([operands], form, mode)
    return _exact([operands[:2], operands[2:]], form, mode)
