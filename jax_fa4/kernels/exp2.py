"""2^x for pairs of scores, by the special function unit or by a polynomial on the FMA units beside it.

The special function unit takes 16 a clock while the tensor core needs 1024 clocks for a block of 128 x 128 scores, as
many as the unit would: so some columns go elsewhere, spread evenly, and the same ones whether a block is masked or not.
"""

from typing import Any

import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels import pairs
from jax_fa4.kernels.pairs import both

PERIOD = 16  # columns after which the pattern repeats

# 2^f = 1 + f (c1 + f (c2 + ...)) for f in [0, 1), by degree: the least maximum of the relative error, which is 8.6e-5
# and 9.4e-8. The first is a fortieth of what rounding to bfloat16 does to a weight, but the log-sum-exp is in float32.
COEFFICIENTS = {
    3: (0.69511676, 0.227645, 0.07706704),
    5: (0.6931513, 0.24016444, 0.055799913, 0.009017031, 0.00186713),
}
# 1.5 * 2^23: a float32 of this size has whole numbers for its last bits, so adding it rounds x to one of them.
ROUNDER = 12582912.0
LOWEST = -127.0  # 2^-127 comes out as 0: its exponent field is


def is_polynomial(column: int, polynomial: int) -> bool:
    """Whether this column takes the polynomial, when `polynomial` of every 16 do."""
    return column % PERIOD >= PERIOD - polynomial


def exp2_pair(pair: tuple[Any, Any], degree: int = 0) -> tuple[Any, Any]:
    """Returns 2^x of two numbers below 128, by a polynomial where a degree is given."""
    if degree:
        return polynomial_exp2(pair, COEFFICIENTS[degree])
    return cute.arch.exp2(pair[0]), cute.arch.exp2(pair[1])


def polynomial_exp2(pair: tuple[Any, Any], coefficients: tuple[float, ...]) -> tuple[Any, Any]:
    """Returns 2^x: a polynomial of the fraction, whose exponent the whole part is added to."""
    x = tuple(cute.arch.fmax(value, Float32(LOWEST)) for value in pair)
    shifted = ptx.add_packed_f32x2(x, both(ROUNDER), rnd="rm")
    whole = pairs.add(shifted, both(-ROUNDER))
    fraction = pairs.multiply_add(whole, both(-1.0), x)
    result = both(coefficients[-1])
    for coefficient in (*coefficients[-2::-1], 1.0):
        result = pairs.multiply_add(result, fraction, both(coefficient))
    return tuple(add_to_exponent(r, s) for r, s in zip(result, shifted, strict=True))  # type: ignore[return-value]


def add_to_exponent(mantissa: Any, shifted: Any) -> Any:
    """Adds the whole number in the last bits of `shifted` to the exponent; what stands above it is shifted out."""
    return (mantissa.bitcast(Int32) + (shifted.bitcast(Int32) << 23)).bitcast(Float32)
