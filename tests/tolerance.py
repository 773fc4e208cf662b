"""When a result is right: at most twice as far from the exact one as the naive evaluation in the same precision.

The rule. `reference` is exact for this purpose (tests/oracle.py in a wider precision), `naive` is the oracle in the
precision of the inputs:

    max |actual - reference| / scale  <=  2 * max |naive - reference| / scale  +  eps(result dtype)

No number in it is tuned. The factor 2 is for a different, equally good order of operations. eps times the magnitude is
two correct roundings of the result (eps is twice the unit roundoff): it keeps the rule satisfiable where the naive
evaluation happens to be exact. One step of the subnormal numbers is allowed too: there eps does not describe rounding.

It is asked twice, with two scales:
  * whole array: scale = max |reference|.
  * each row (position of the first two axes, e.g. one token of one batch element): scale = max |reference| of the row.
    Averages over many keys are much smaller than the largest entry: beside it, a lost key of 257 would hide within the
    rounding of bfloat16. Sums that cancel leave the noise of the accumulator, whatever the row's magnitude; so no row's
    scale is taken below the one at which that noise, eps(accumulator) * max |reference|, is eps(result dtype) of the
    scale. For float32 and float64 results, as wide as their accumulator, the second question is thus the first one.

One naive evaluation is one sample of rounding. assert_forward and assert_backward take a few, each adding in another
order, and dividing by the softmax's sum before or after probabilities are rounded. Gradients of sinks and slopes have
so few entries that chance may spare all of them: there the naive error is the sum of the errors of the terms and of one
rounding for each addition, since a sum is that wrong if no errors cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import oracle

Array = npt.NDArray[Any]

# A row of few entries may have only tiny ones by chance; it has no magnitude of its own then.
MIN_ROW_ENTRIES = 8
# Naive evaluations, each with its own order of additions.
NAIVE_ORDERS = (0, 1, 2)


def assert_forward(
    inputs: Mapping[str, Array], arguments: Mapping[str, Any], output: Any = None, log_sum_exp: Any = None
) -> None:
    """Asserts that what is given of a call's results (in the public layouts) is right.

    Args:
      inputs, arguments: as for oracle.forward.
    """
    dtype = inputs["query"].dtype
    reference = oracle.forward(inputs, arguments, oracle.reference_precision(dtype))
    naive = [oracle.forward(inputs, arguments, oracle.naive(dtype, order)) for order in NAIVE_ORDERS]
    if output is not None:
        assert_close("output", output, reference.output, [result.output for result in naive], dtype)
    if log_sum_exp is not None:
        samples = [result.log_sum_exp for result in naive]
        assert_close("log-sum-exp", log_sum_exp, reference.log_sum_exp, samples, dtype, is_float32_result=True)


def assert_backward(
    inputs: Mapping[str, Array],
    arguments: Mapping[str, Any],
    d_output: Array,
    d_log_sum_exp: Array | None,
    gradients: Mapping[str, Any],
) -> None:
    """Asserts that each of `gradients`, named after its input, is right; each in the dtype of its input."""
    dtype = inputs["query"].dtype

    def evaluate(precision: oracle.Precision, per_row: bool = False) -> oracle.Gradients:
        return oracle.backward(inputs, arguments, precision, d_output, d_log_sum_exp, per_row=per_row)

    precision = oracle.reference_precision(dtype)
    reference = evaluate(precision)
    naive = [evaluate(oracle.naive(dtype, order), per_row=True) for order in NAIVE_ORDERS]
    terms = evaluate(precision, per_row=True)
    for name, gradient in gradients.items():
        expected, samples = getattr(reference, name), [getattr(sample, name) for sample in naive]
        if name in ("sinks", "alibi_slopes"):
            samples = [expected + _error_of_sum(sample, getattr(terms, name)) for sample in samples]
        accumulator, own = oracle.naive(dtype).accumulate, inputs[name].dtype
        result_dtype = own if own.itemsize <= accumulator.itemsize else accumulator
        assert_close(f"gradient of {name}", gradient, expected, samples, result_dtype)


def assert_close(
    name: str, actual: Any, reference: Any, naive: Any, dtype: npt.DTypeLike, *, is_float32_result: bool = False
) -> None:
    """Raises AssertionError unless `actual` satisfies the rule above and is infinite or NaN where `reference` is.

    Args:
      name: what is compared, for the message.
      actual: result under test.
      reference: the oracle's in oracle.reference_precision(dtype).
      naive: the oracle's in oracle.naive(dtype), or a list of such samples, of which the worst counts.
      dtype: dtype of the inputs, and of the result unless the next argument says otherwise.
      is_float32_result: the result is float32 although the inputs are narrower: the log-sum-exp.
    """
    actual, reference = np.asarray(actual), np.asarray(reference)
    samples = [np.asarray(sample) for sample in (naive if isinstance(naive, list | tuple) else [naive])]
    for whose, array in [("actual", actual), *(("naive", sample) for sample in samples)]:
        if array.shape != reference.shape:
            raise AssertionError(f"{name}: {whose} has shape {array.shape}, the reference {reference.shape}")
        _assert_same_specials(name, whose, array, reference)
    if actual.size == 0:
        return

    input_dtype = np.dtype(dtype)
    result_dtype = np.dtype(np.float32) if is_float32_result and input_dtype.itemsize < 4 else input_dtype
    accumulator = result_dtype if result_dtype.itemsize >= 4 else np.dtype(np.float32)
    finfo: Any = ml_dtypes.finfo
    info = finfo(result_dtype)
    errors = _errors(actual, reference)
    naive_errors = np.max([_errors(sample, reference) for sample in samples], axis=0)
    magnitudes = np.where(np.isfinite(reference), np.abs(reference), 0).astype(np.longdouble)
    largest = magnitudes.max()
    noise = largest * float(finfo(accumulator).eps) / float(info.eps)
    for what, scale in (("array", largest), ("row", np.maximum(_row_magnitudes(magnitudes), noise))):
        scale = np.broadcast_to(scale, reference.shape)
        floor = float(info.eps) * scale + float(info.smallest_subnormal)
        # Where all is zero there is nothing to be relative to: any divisor will do.
        relative = np.max(naive_errors / np.where(scale > 0, scale, 1))
        allowed = 2 * relative * scale + floor
        if np.any(errors > allowed):
            index = tuple(int(i) for i in np.unravel_index(np.argmax(errors / allowed), errors.shape))
            worst = max((sample[index] for sample in samples), key=lambda entry: abs(entry - reference[index]))
            raise AssertionError(
                f"{name}: not within 2x the naive error plus rounding, relative to the largest entry of the {what}; "
                f"{np.count_nonzero(errors > allowed)} of {errors.size} entries are off, worst at {index}: "
                f"actual {float(actual[index]):.9g}, reference {float(reference[index]):.9g}, "
                f"naive {float(worst):.9g}, error {errors[index]:.3g}, allowed {allowed[index]:.3g} "
                f"(rounding floor {floor[index]:.3g})"
            )


def _error_of_sum(terms: Array, exact_terms: Array) -> Array:
    """How far the sum over rows of `terms` (B, T, N) is off if neither their errors nor the additions' cancel."""
    partial_sums = np.cumsum(terms.reshape(-1, terms.shape[-1]), axis=0)
    unit_roundoff = float(np.finfo(terms.dtype).eps) / 2
    of_terms: Array = np.sum(np.abs(terms - exact_terms), axis=(0, 1))
    of_additions: Array = unit_roundoff * np.sum(np.abs(partial_sums), axis=0)
    return of_terms + of_additions


def _row_magnitudes(magnitudes: Array) -> Array:
    """The largest magnitude of each position of the first two axes, or of all where rows are too short to have one."""
    is_short = np.prod(magnitudes.shape[2:]) < MIN_ROW_ENTRIES
    largest: Array = np.max(magnitudes, axis=tuple(range(0 if is_short else 2, magnitudes.ndim)), keepdims=True)
    return largest


def _errors(array: Array, reference: Array) -> Array:
    """Absolute errors of the finite entries, wide enough to judge float64 too."""
    finite = np.isfinite(reference)
    wide, exact = array.astype(np.longdouble), reference.astype(np.longdouble)
    errors: Array = np.abs(np.where(finite, wide, 0) - np.where(finite, exact, 0))
    return errors


def _assert_same_specials(name: str, whose: str, array: Array, reference: Array) -> None:
    """Infinities of the same sign and NaNs in the same places: an empty row's log-sum-exp is -inf, nothing near it."""
    both_nan = np.isnan(reference) & np.isnan(array)
    same = np.where(np.isfinite(reference), np.isfinite(array), (array == reference) | both_nan)
    if not np.all(same):
        index = tuple(int(i) for i in np.argwhere(~same)[0])
        raise AssertionError(
            f"{name}: infinities or NaNs differ in {np.count_nonzero(~same)} of {same.size} entries, "
            f"first at {index}: {whose} {float(array[index]):.9g}, reference {float(reference[index]):.9g}"
        )
