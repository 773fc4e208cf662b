"""The softmax of a row of scores, block by block: maximum, rescaling, exponentials and their sum.

Exponentials are taken of `scale_log2 * (score - reference)`. Any reference gives the same result, so it need not be the
row's maximum: it follows only when the maximum has outgrown it by 2^threshold, and the accumulator is rescaled rarely.
"""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32

from jax_fa4.kernels import pairs
from jax_fa4.kernels.exp2 import exp2_pair, is_polynomial

LN_2 = 0.6931471805599453
LOG2_E = 1.4426950408889634
CHAINS = 4  # independent partial maxima and sums


@dataclass(frozen=True)
class Finished:
    """What a row ends with: a factor for its accumulator, and its log-sum-exp."""

    inverse: Any
    log_sum_exp: Any


@dataclass(frozen=True)
class RowSoftmax:
    """What a row's softmax is done with; the state between blocks is (reference, total)."""

    scale_log2: Any
    threshold: float
    polynomial: int
    degree: int

    def start(self) -> tuple[Any, Any]:
        """Returns the state before the first block."""
        return -Float32.inf, Float32(0.0)

    def follow(self, maximum: Any, reference: Any) -> tuple[Any, Any]:
        """Returns the reference for a block of this maximum, and the factor for what was summed under the old one."""
        largest = cute.arch.fmax(maximum, reference)
        growth = (reference - finite(largest)) * self.scale_log2
        if self.threshold == 0.0:
            return largest, cute.arch.exp2(growth)
        # Not `growth < -threshold`: a first block's growth is -inf or, with all of it masked, of no matter.
        stays = growth >= Float32(-self.threshold)
        return cutlass.select_(stays, reference, largest), cutlass.select_(stays, Float32(1.0), cute.arch.exp2(growth))

    def weights(self, scores: list[Any], reference: Any, first_column: int) -> list[Any]:
        """Returns 2^(scale_log2 * (score - reference)) of consecutive scores, an even number of them."""
        scale, shift = self.scale_log2, -finite(reference) * self.scale_log2
        result: list[Any] = []
        for j in range(0, len(scores), 2):
            pair = pairs.multiply_add((scores[j], scores[j + 1]), (scale, scale), (shift, shift))
            result += exp2_pair(pair, self.degree if is_polynomial(first_column + j, self.polynomial) else 0)
        return result

    def finish(self, reference: Any, total: Any) -> Finished:
        """Returns the end of a row; one without keys has 0 and -inf."""
        return Finished(inverse(total), self.log_sum_exp(reference, total))

    def finish_with_sink(self, reference: Any, total: Any, sink: Any) -> Finished:
        """Likewise with one more key of score `sink`, whose value is zero; -inf is no such key."""
        largest = cute.arch.fmax(reference, sink)
        factor = cute.arch.exp2((reference - finite(largest)) * self.scale_log2)
        total = total * factor + cute.arch.exp2((sink - finite(largest)) * self.scale_log2)
        return Finished(inverse(total) * factor, self.log_sum_exp(largest, total))

    def log_sum_exp(self, reference: Any, total: Any) -> Any:
        """Returns the natural logarithm of a row's sum."""
        return (finite(reference) * self.scale_log2 + cute.math.log2(total, fastmath=True)) * Float32(LN_2)


def finite(maximum: Any) -> Any:
    """The maximum, or 0 where the row has seen no key: scores of -inf then give weights of 0 and not NaN."""
    return cutlass.select_(maximum == -Float32.inf, Float32(0.0), maximum)


def inverse(total: Any) -> Any:
    """Returns 1 / total, or 0 for a row that saw no key."""
    return cutlass.select_(total > Float32(0.0), cute.arch.rcp_approx(total), Float32(0.0))


def row_maximum(scores: list[Any]) -> Any:
    """Returns the largest of many numbers."""
    partial = list(scores[:CHAINS])
    for j in range(CHAINS, len(scores)):
        partial[j % CHAINS] = cute.arch.fmax(partial[j % CHAINS], scores[j])
    largest = partial[0]
    for other in partial[1:]:
        largest = cute.arch.fmax(largest, other)
    return largest


def add_weights(partial: list[Any], weights: list[Any]) -> list[Any]:
    """Adds weights to partial sums, which are pairs; there are none at the beginning."""
    new = [(weights[j], weights[j + 1]) for j in range(0, len(weights), 2)]
    if not partial:
        partial, new = new[:CHAINS], new[CHAINS:]
    for j, pair in enumerate(new):
        partial[j % CHAINS] = pairs.add(partial[j % CHAINS], pair)
    return partial


def total_of(partial: list[Any]) -> Any:
    """Returns the sum of partial sums."""
    while len(partial) > 1:
        partial = [pairs.add(a, b) for a, b in zip(partial[::2], partial[1::2], strict=True)]
    return partial[0][0] + partial[0][1]


def scaled(values: list[Any], factor: Any) -> list[Any]:
    """Returns the values times `factor`, multiplied in pairs."""
    result: list[Any] = []
    for j in range(0, len(values), 2):
        result += pairs.multiply((values[j], values[j + 1]), (factor, factor))
    return result
