"""The tests' own foundation: the oracle against finite differences and jax.nn, the tolerance against wrong results."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import ml_dtypes
import numpy as np
import oracle
import pytest
import tolerance
from cases import FORWARD_AND_BACKWARD, QUICK, Case
from oracle import FLOAT64

Array = np.ndarray[Any, np.dtype[Any]]

TINY = Case("float64", query_length=5, key_length=6, head_dim=3, value_head_dim=2)
RICH = {
    "causal_cap_sinks": dataclasses.replace(
        TINY, is_causal=True, logits_soft_cap=1.5, bias="full", sinks=True, alibi=True
    ),
    "window_offset_shared_bias": dataclasses.replace(
        TINY, window=(3, 1), query_offset="batch", bias="head", mask="key", sinks=True, alibi=True, scale=0.4
    ),
    "lengths_segments_no_sinks": dataclasses.replace(
        TINY, causal_alignment="bottom_right", is_causal=True, lengths="key", segments="packed", bias="key", alibi=True
    ),
}


@pytest.mark.parametrize("case", RICH.values(), ids=RICH.keys())
def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    arrays, arguments, (d_output, d_lse) = case.arrays(), case.arguments(), case.cotangents()

    def loss(inputs: dict[str, Array]) -> float:
        output, lse = oracle.forward(inputs, arguments, FLOAT64)
        return float(np.sum(output * d_output) + np.sum(np.where(np.isfinite(lse), lse, 0) * d_lse))

    gradients = oracle.backward(arrays, arguments, FLOAT64, d_output, d_lse)._asdict()
    assert {name for name, gradient in gradients.items() if gradient is not None} == set(gradients) & set(arrays)
    # Off by step**2 times the third derivative and by eps / step times the loss, both of which are some tens here.
    step, tolerated = 1e-5, 1e-8
    for name, gradient in gradients.items():
        if gradient is None:
            continue
        assert np.any(gradient != 0)
        for index in np.ndindex(gradient.shape):
            losses = []
            for shift in (step, -step):
                shifted = arrays[name].copy()
                shifted[index] += shift
                losses.append(loss(arrays | {name: shifted}))
            numeric = (losses[0] - losses[1]) / (2 * step)
            assert abs(gradient[index] - numeric) <= tolerated * max(1.0, abs(numeric)), (name, index)


SMALL = Case(query_length=7, key_length=9, head_dim=8)
SHARED_WITH_JAX = {
    "plain": SMALL,
    "causal": dataclasses.replace(SMALL, is_causal=True),
    "window_scale": dataclasses.replace(SMALL, window=(2, 3), scale=0.7),
    "bias": dataclasses.replace(SMALL, bias="full"),
    "bias_head_mask": dataclasses.replace(SMALL, bias="head", mask="key"),
}


def jax_attention(arrays: dict[str, Array], arguments: dict[str, Any]) -> Array:
    attend: Any = jax.nn.dot_product_attention
    return np.asarray(jax.jit(lambda given: attend(**given, **arguments, implementation="xla"))(arrays))


@pytest.mark.parametrize("case", SHARED_WITH_JAX.values(), ids=SHARED_WITH_JAX.keys())
def test_output_is_that_of_jax_nn(case: Case) -> None:
    arrays, arguments = case.arrays(), case.arguments()
    tolerance.assert_forward(arrays, arguments, jax_attention(arrays, arguments))


def test_output_with_lengths_is_that_of_jax_nn() -> None:
    lengths = {"query_seq_lengths": np.asarray([7, 4], np.int32), "key_value_seq_lengths": np.asarray([1, 8], np.int32)}
    arrays = SMALL.arrays() | lengths
    tolerance.assert_forward(arrays, {}, jax_attention(arrays, {}))


def test_gradients_are_those_of_jax_nn() -> None:
    case = dataclasses.replace(SMALL, is_causal=True, bias="full")
    arrays, (d_output, _) = case.arrays(), case.cotangents()

    @jax.jit
    def gradients(given: dict[str, Array]) -> Any:
        attend: Any = jax.nn.dot_product_attention
        return jax.vjp(lambda given: attend(**given, is_causal=True), given)[1](d_output)[0]

    tolerance.assert_backward(arrays, case.arguments(), d_output, None, gradients(arrays))


@pytest.mark.parametrize("window", [3, (3, 3)])
def test_one_number_is_a_window_of_both_sides(window: Any) -> None:
    arrays = SMALL.arrays()
    output, _ = oracle.forward(arrays, {"local_window_size": window}, FLOAT64)
    distance = np.arange(7)[:, None] - np.arange(9)
    expected, _ = oracle.forward(arrays | {"mask": np.abs(distance) <= 3}, {}, FLOAT64)
    np.testing.assert_array_equal(output, expected)


def test_bottom_right_is_the_offset_that_aligns_the_last_query_with_the_last_key() -> None:
    arrays = SMALL.arrays()
    bottom_right = {"is_causal": True, "causal_alignment": "bottom_right"}
    offset = {"query_offset": np.asarray(2, np.int32)}
    for got, expected in zip(
        oracle.forward(arrays, bottom_right, FLOAT64),
        oracle.forward(arrays | offset, {"is_causal": True}, FLOAT64), strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="query_offset"):
        oracle.forward(arrays | offset, bottom_right, FLOAT64)


@pytest.mark.parametrize("sinks", [False, True])
def test_empty_rows_are_zero_with_the_sink_for_log_sum_exp(sinks: bool) -> None:
    case = dataclasses.replace(SMALL, mask="none_visible", sinks=sinks)
    arrays, (d_output, d_lse) = case.arrays(), case.cotangents()
    output, lse = oracle.forward(arrays, {}, FLOAT64)
    gradients = oracle.backward(arrays, {}, FLOAT64, d_output, d_lse)
    for zero in (output, gradients.query, gradients.key, gradients.value):
        assert not np.any(zero)
    np.testing.assert_array_equal(lse, np.broadcast_to(arrays["sinks"] if sinks else -np.inf, lse.shape))
    if gradients.sinks is not None:
        np.testing.assert_allclose(gradients.sinks, d_lse.astype(np.float64).sum(axis=(0, 1)), rtol=1e-12)


def test_naive_results_have_the_dtypes_of_their_inputs() -> None:
    case = Case("bfloat16", query_length=5, key_length=6, sinks=True, bias="full")
    arrays, cotangents = case.arrays(), case.cotangents()
    output, lse = oracle.forward(arrays, {}, oracle.naive("bfloat16"))
    assert (output.dtype.name, lse.dtype.name) == ("bfloat16", "float32")
    for name, gradient in oracle.backward(arrays, {}, oracle.naive("bfloat16"), *cotangents)._asdict().items():
        assert gradient is None or gradient.dtype == arrays[name].dtype
    assert oracle.forward(arrays, {}, oracle.naive("float32")).output.dtype == np.float32


def test_case_names_are_unique_and_arrays_repeatable() -> None:
    names = [case.id for case in FORWARD_AND_BACKWARD]
    assert len(set(names)) == len(names)
    assert set(QUICK) < set(FORWARD_AND_BACKWARD)
    for case in QUICK:
        first, second = case.arrays(), case.arrays()
        assert first.keys() == second.keys()
        for name in first:
            assert first[name].tobytes() == second[name].tobytes()


@pytest.mark.parametrize("case", FORWARD_AND_BACKWARD, ids=lambda case: case.id)
def test_every_case_is_finite_in_its_own_precision(case: Case) -> None:
    """NaN in padding does not spread, float16 does not overflow, only empty rows have a log-sum-exp of -inf."""
    arrays, arguments, cotangents = case.arrays(), case.arguments(), case.cotangents()
    precision = oracle.naive(case.array_dtype)
    output, lse = oracle.forward(arrays, arguments, precision)
    assert np.all(np.isfinite(lse) | (np.all(output == 0, axis=-1) & (lse == -np.inf) & (not case.sinks)))
    for array in (output, *oracle.backward(arrays, arguments, precision, *cotangents)):
        assert array is None or np.all(np.isfinite(array))


class TestTolerance:
    """What it must refuse. Results are made from the naive ones, which it must accept."""

    case = Case("bfloat16", key_length=257, is_causal=True, causal_alignment="bottom_right", lengths="key")

    def results(self, dtype: str) -> tuple[dict[str, Array], dict[str, Any], Array, Array]:
        case = dataclasses.replace(self.case, dtype=dtype)
        arrays, arguments = case.arrays(), case.arguments()
        output, lse = oracle.forward(arrays, arguments, oracle.naive(dtype))
        tolerance.assert_forward(arrays, arguments, output, lse)
        return arrays, arguments, output, lse

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
    def test_refuses_more_than_twice_the_naive_error_and_the_floor(self, dtype: str) -> None:
        finfo: Any = ml_dtypes.finfo
        info = finfo(np.dtype(dtype))
        reference, naive_error = np.asarray([1.0, -0.5, 0.25], np.longdouble), 3 * float(info.eps)
        naive = reference + np.asarray([naive_error, 0, 0])
        allowed = 2 * naive_error + float(info.eps)
        for share, is_right in ((0.99, True), (1.01, False)):
            for sign in (1, -1):
                actual = reference + np.asarray([0, 0, sign * share * allowed])
                if is_right:
                    tolerance.assert_close("x", actual, reference, naive, dtype)
                else:
                    with pytest.raises(AssertionError, match=r"worst at \(2,\)"):
                        tolerance.assert_close("x", actual, reference, naive, dtype)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_refuses_a_lost_key(self, dtype: str) -> None:
        """The last of 257 keys weighs less than the rounding of the largest bfloat16 output; the row scale finds it."""
        arrays, _, _, _ = self.results(dtype)
        is_seen = {"mask": np.arange(257) < 256}
        arrays["key_value_seq_lengths"] = np.asarray([257, 300], np.int32)
        output, lse = oracle.forward(arrays | is_seen, {}, oracle.naive(dtype))
        with pytest.raises(AssertionError, match="output: not within"):
            tolerance.assert_forward(arrays, {}, output=output)
        with pytest.raises(AssertionError, match="log-sum-exp: not within"):
            tolerance.assert_forward(arrays, {}, log_sum_exp=lse)

    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
    def test_refuses_a_special_value(self, wrong: float) -> None:
        arrays, arguments, output, _ = self.results("bfloat16")
        output[1, 66, 3, 39] = wrong
        with pytest.raises(AssertionError, match=r"infinities or NaNs differ in 1 .* first at \(1, 66, 3, 39\)"):
            tolerance.assert_forward(arrays, arguments, output)

    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -1e30, 0.0])
    def test_refuses_another_value_than_minus_infinity(self, wrong: float) -> None:
        arrays, arguments = self.case.arrays(), self.case.arguments()
        arrays["key_value_seq_lengths"] = np.asarray([0, 257], np.int32)
        output, lse = oracle.forward(arrays, arguments, oracle.naive("bfloat16"))
        assert np.all(lse[0] == -np.inf)
        tolerance.assert_forward(arrays, arguments, output, lse)
        lse[0, 3, 1] = wrong
        with pytest.raises(AssertionError, match=r"first at \(0, 3, 1\)"):
            tolerance.assert_forward(arrays, arguments, output, lse)

    def test_refuses_another_shape(self) -> None:
        arrays, arguments, output, _ = self.results("float32")
        with pytest.raises(AssertionError, match="shape"):
            tolerance.assert_forward(arrays, arguments, output[:, :, :1])

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("name", ["query", "key", "value", "bias", "sinks", "alibi_slopes"])
    def test_refuses_gradients_that_lack_the_last_row(self, name: str, dtype: str) -> None:
        case = Case(dtype, bias="head", sinks=True, alibi=True)
        arrays, (d_output, d_lse) = case.arrays(), case.cotangents()
        right = oracle.backward(arrays, {}, oracle.naive(dtype), d_output, d_lse)._asdict()
        tolerance.assert_backward(arrays, {}, d_output, d_lse, right)
        d_output[:, -1], d_lse[:, -1] = 0, 0
        wrong = oracle.backward(arrays, {}, oracle.naive(dtype), d_output, d_lse)._asdict()
        d_output, d_lse = case.cotangents()
        with pytest.raises(AssertionError, match=f"gradient of {name}: not within"):
            tolerance.assert_backward(arrays, {}, d_output, d_lse, {name: wrong[name]})
