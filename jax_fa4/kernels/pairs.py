"""Arithmetic on pairs of float32: one instruction for both numbers where the GPU has such, which is from sm_100 on."""

import os
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass.experimental import primitives as ptx

Pair = Any  # of float32 values

FIRST_WITH_PAIRS = 100
# As build.py has set it for this process before the compiler was imported.
HAS_PAIRS = int("".join(filter(str.isdigit, os.environ.get("CUTE_DSL_ARCH", "0")))) >= FIRST_WITH_PAIRS


def both(value: float) -> Pair:
    """Returns a pair of the same number."""
    return cutlass.Float32(value), cutlass.Float32(value)


def add(a: Pair, b: Pair) -> Pair:
    """Returns the sums."""
    if HAS_PAIRS:
        return ptx.add_packed_f32x2(a, b, rnd="rn")
    return a[0] + b[0], a[1] + b[1]


def multiply(a: Pair, b: Pair) -> Pair:
    """Returns the products."""
    if HAS_PAIRS:
        return ptx.mul_packed_f32x2(a, b, rnd="rn")
    return a[0] * b[0], a[1] * b[1]


def multiply_add(a: Pair, b: Pair, c: Pair) -> Pair:
    """Returns a b + c, rounded once."""
    if HAS_PAIRS:
        return ptx.fma_packed_f32x2(a, b, c, rnd="rn")
    return cute.math.fma(a[0], b[0], c[0]), cute.math.fma(a[1], b[1], c[1])
