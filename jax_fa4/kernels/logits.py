"""From a row's products of query and key to logits, in units of log2(e): scale, soft cap, ALiBi."""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.exp2 import both
from jax_fa4.kernels.row_softmax import LOG2_E, scaled

CHUNK = 32  # scores that one branch holds

# tanh(x) / x for |x| < 0.625 as a polynomial of x^2: the least maximum of the relative error, which is 4.4e-9.
SMALL = 0.625
COEFFICIENTS = (1.0, -0.3333328, 0.1333144, -0.053739715, 0.020639086, -0.005704985)


@dataclass(frozen=True)
class RowLogits:
    """What makes one row's logits; cap_log2 is 0 where they have no cap, slope_log2 where there is no ALiBi."""

    scale_log2: Any
    cap_log2: Any
    slope_log2: Any
    position: Any

    def of(self, scores: list[Any], first_key: Any) -> list[Any]:
        """Returns the logits of the keys from `first_key` on."""
        result: list[Any] = []
        distance = self.position - Float32(first_key)
        for first in range(0, len(scores), CHUNK):
            chunk = scaled(scores[first : first + CHUNK], self.scale_log2)
            chunk = soft_capped(chunk, self.cap_log2)
            result += sloped(chunk, self.slope_log2, distance - Float32(first))
        return result


@cute.jit
def soft_capped(logits, cap_log2):
    """cap * tanh(logit / cap)."""
    if cap_log2 > Float32(0.0):
        inverse = cute.arch.rcp_approx(cap_log2)
        logits = scaled(tanh(scaled(logits, inverse)), cap_log2)
    return logits


@cute.jit
def sloped(logits, slope_log2, distance):
    """The logit minus slope * |distance|; the key of column j is j nearer to the left."""
    if slope_log2 != Float32(0.0):
        logits = [
            logit - slope_log2 * absolute(distance - Float32(column)) for column, logit in enumerate(logits)
        ]  # fmt: skip
    return logits


def tanh(values: list[Any]) -> list[Any]:
    """Returns tanh of each: by a polynomial near 0, where (1 - e^-2x) / (1 + e^-2x) would cancel."""
    result: list[Any] = []
    for j in range(0, len(values), 2):
        x = (values[j], values[j + 1])
        size = tuple(absolute(value) for value in x)
        power = tuple(cute.arch.exp2(value) for value in ptx.mul_packed_f32x2(size, both(-2 * LOG2_E), rnd="rn"))
        above = ptx.fma_packed_f32x2(power, both(-1.0), both(1.0), rnd="rn")
        below = ptx.add_packed_f32x2(power, both(1.0), rnd="rn")
        large = ptx.mul_packed_f32x2(above, tuple(cute.arch.rcp_approx(value) for value in below), rnd="rn")
        square = ptx.mul_packed_f32x2(x, x, rnd="rn")
        ratio = both(COEFFICIENTS[-1])
        for coefficient in COEFFICIENTS[-2::-1]:
            ratio = ptx.fma_packed_f32x2(ratio, square, both(coefficient), rnd="rn")
        small = ptx.mul_packed_f32x2(ratio, x, rnd="rn")
        result += [
            cutlass.select_(size[k] < Float32(SMALL), small[k], with_sign(large[k], x[k])) for k in (0, 1)
        ]  # fmt: skip
    return result


def with_sign(size: Any, x: Any) -> Any:
    """Returns a positive number with the sign of x."""
    return (size.bitcast(Int32) | (x.bitcast(Int32) & Int32(-(1 << 31)))).bitcast(Float32)


def absolute(x: Any) -> Any:
    """Returns |x|."""
    return (x.bitcast(Int32) & Int32((1 << 31) - 1)).bitcast(Float32)
