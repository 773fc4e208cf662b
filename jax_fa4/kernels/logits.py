"""From a row's products of query and key to logits, in units of log2(e): scale, soft cap, ALiBi."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels import pairs
from jax_fa4.kernels.pairs import both
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

    def of(self, scores: list[Any], first_key: Any, columns: Sequence[int] | None = None) -> list[Any]:
        """Returns the logits of the keys first_key + columns[0], ...; None: of those from `first_key` on."""
        columns = range(len(scores)) if columns is None else columns
        result: list[Any] = []
        distance = self.position - Float32(first_key)
        for first in range(0, len(scores), CHUNK):
            chunk = scaled(scores[first : first + CHUNK], self.scale_log2)
            chunk = soft_capped(chunk, self.cap_log2)
            start = columns[first]
            own = tuple(column - start for column in columns[first : first + CHUNK])
            result += sloped(chunk, self.slope_log2, distance - Float32(start), own)
        return result


@cute.jit
def soft_capped(logits, cap_log2):
    """cap * tanh(logit / cap)."""
    if cap_log2 > Float32(0.0):
        inverse = cute.arch.rcp_approx(cap_log2)
        logits = scaled(tanh(scaled(logits, inverse)), cap_log2)
    return logits


@cute.jit
def sloped(logits, slope_log2, distance, columns: cutlass.Constexpr):
    """The logit minus slope * |distance|; the key of a column is that much nearer to the left."""
    if slope_log2 != Float32(0.0):
        logits = [
            logit - slope_log2 * absolute(distance - Float32(column))
            for column, logit in zip(columns, logits, strict=True)
        ]  # fmt: skip
    return logits


def tanh(values: list[Any]) -> list[Any]:
    """Returns tanh of each: by a polynomial near 0, where (1 - e^-2x) / (1 + e^-2x) would cancel."""
    result: list[Any] = []
    for j in range(0, len(values), 2):
        x = (values[j], values[j + 1])
        size = tuple(absolute(value) for value in x)
        power = tuple(cute.arch.exp2(value) for value in pairs.multiply(size, both(-2 * LOG2_E)))
        above = pairs.multiply_add(power, both(-1.0), both(1.0))
        below = pairs.add(power, both(1.0))
        large = pairs.multiply(above, tuple(cute.arch.rcp_approx(value) for value in below))
        square = pairs.multiply(x, x)
        ratio = both(COEFFICIENTS[-1])
        for coefficient in COEFFICIENTS[-2::-1]:
            ratio = pairs.multiply_add(ratio, square, both(coefficient))
        small = pairs.multiply(ratio, x)
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
