"""Laws of attention that hold for any arguments: agreement with the oracle, and of calls that mean the same."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracle
import pytest
import tolerance
from cases import Array, Case
from hypothesis import example, given, settings
from hypothesis import strategies as st
from running import DIFFERENTIABLE, forward_and_backward, precision_of, results_and_gradients

import jax_fa4

Arrays = dict[str, Any]
Call = Callable[..., Any]

properties = settings(deadline=None, derandomize=True, database=None, max_examples=6)

# Each new shape costs a compilation, so lengths are few, on either side of the edges of tiles.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "heads": st.sampled_from([(1, 1), (4, 2), (3, 1), (2, 2)]),
    "dtype": st.sampled_from(["float32", "bfloat16", "float16"]),
    "batch": st.sampled_from([1, 2]),
    "query_length": st.sampled_from([1, 5, 64, 67, 130]),
    "key_length": st.sampled_from([1, 5, 64, 67, 130, 193]),
    "head_dim": st.sampled_from([3, 16, 40]),
    "value_head_dim": st.sampled_from([None, 8, 24]),
    "scale": st.sampled_from([None, 0.3]),
    "is_causal": st.booleans(),
    "causal_alignment": st.sampled_from(["top_left", "bottom_right"]),
    "window": st.sampled_from([None, (0, 0), (3, 5), (17, None), (None, 10), (70, 0)]),
    "logits_soft_cap": st.sampled_from([None, 2.0]),
    "bias": st.sampled_from([None, "full", "head", "key", "query", "blocked"]),
    "mask": st.sampled_from([None, "full", "key"]),
    "lengths": st.sampled_from([None, "both", "query", "key"]),
    "segments": st.sampled_from([None, "packed", "singletons"]),
    "query_offset": st.sampled_from([None, "scalar", "batch"]),
    "sinks": st.booleans(),
    "alibi": st.booleans(),
    "parameter_dtype": st.sampled_from([None, "float32", "bfloat16"]),
    "nan_padding": st.booleans(),
    "seed": st.integers(0, 99),
}
# For tests of what does not depend on where a key stands.
NO_POSITIONS: Arrays = {"is_causal": False, "causal_alignment": "top_left", "window": None, "query_offset": None}
NO_POSITIONS |= {"alibi": False}
# For tests that place queries, or set lengths, themselves.
OWN_OFFSET: Arrays = {"causal_alignment": "top_left"}
OWN_LENGTHS: Arrays = {"lengths": None, "nan_padding": False}

AXIS_OF_KEYS = {"key": 1, "value": 1, "key_value_segment_ids": 1, "bias": 3, "mask": 3}
AXIS_OF_QUERIES = {"query": 1, "query_segment_ids": 1, "bias": 2, "mask": 2}

# A chance example may have so few entries that the naive evaluation errs by luck much less than it usually does. So the
# laws are asked in the next wider dtype, by the tolerance of the case's own one; each dtype's own rounding is judged on
# the table of cases and, for the low ones, by a bound that holds for every example.
WIDER = {"float32": np.float64, "bfloat16": np.float32, "float16": np.float32}


def cases(**fixed: Any) -> st.SearchStrategy[Case]:
    """Any arguments, but for fields given as a value or as a strategy of their own."""

    def case(fields: dict[str, Any]) -> Case:
        query_heads, key_value_heads = fields.pop("heads")
        if fields["query_offset"] is not None:
            fields["causal_alignment"] = "top_left"
        return Case(query_heads=query_heads, key_value_heads=key_value_heads, **fields)

    own = {name: field if isinstance(field, st.SearchStrategy) else st.just(field) for name, field in fixed.items()}
    return st.fixed_dictionaries(FIELDS | own).map(case)


def attention_of(case: Case) -> Call:
    return functools.partial(jax_fa4.attention, **case.arguments(), return_residual=True)


_results_and_gradients = jax.jit(results_and_gradients, static_argnums=0)


def evaluate(case: Case, call: Call, arrays: Arrays, cotangents: Any = None) -> tuple[Any, Arrays]:
    """(Output, log-sum-exp) of call(**arrays) and the gradients of its floating-point arrays, by one program."""
    with precision_of(case):
        results = _results_and_gradients(call, arrays, cotangents or case.cotangents())
        return jax.tree.map(np.asarray, results)


def evaluate_wider(case: Case, call: Call, arrays: Arrays) -> tuple[Any, Arrays]:
    """The same with the floating-point arrays, whose values stay those of the case's dtype, in the next wider one."""
    dtype = WIDER[case.dtype]
    wide = {name: array.astype(dtype) if name in DIFFERENTIABLE else array for name, array in arrays.items()}
    cotangents = tuple(array.astype(dtype) for array in case.cotangents())
    return evaluate(dataclasses.replace(case, dtype=np.dtype(dtype).name), call, wide, cotangents)


def assert_right(case: Case, arrays: Arrays, results: Any, gradients: Arrays, cotangents: Any = None) -> None:
    """The results and gradients are those of the case with these arrays, within its tolerance."""
    tolerance.assert_forward(arrays, case.arguments(), *results)
    tolerance.assert_backward(arrays, case.arguments(), *(cotangents or case.cotangents()), gradients)


def along(axes: dict[str, int], arrays: Arrays, index: Any) -> Arrays:
    """The arrays, indexed along their axis of keys or queries where they have one."""

    def indexed(name: str, array: Any) -> Any:
        is_shared = name in ("bias", "mask") and array.shape[axes[name]] == 1
        return array if name not in axes or is_shared else array[(slice(None),) * axes[name] + (index,)]

    return {name: indexed(name, array) for name, array in arrays.items()}


@settings(properties, max_examples=16)
@given(case=cases())
def test_any_arguments_match_the_oracle(case: Case) -> None:
    assert_right(case, case.arrays(), *evaluate_wider(case, attention_of(case), case.arrays()))


@settings(properties, max_examples=16)
@given(case=cases(dtype=st.sampled_from(["bfloat16", "float16"])))
def test_any_arguments_in_low_precision(case: Case) -> None:
    """Output and gradient of value are sums of p * x: p is rounded before and the sum after, each by eps / 2 of the sum
    of p * |x| at most. Twice that leaves room for the errors in float32 that p has before."""
    arrays, arguments = case.arrays(), case.arguments()
    d_output = case.cotangents()[0]
    (output, log_sum_exp), gradients = forward_and_backward(case)

    sums = (output, gradients["value"])
    exact = (
        oracle.forward(arrays, arguments, oracle.FLOAT64).output,
        oracle.backward(arrays, arguments, oracle.FLOAT64, d_output).value,
    )
    of_magnitudes = (
        oracle.forward(arrays | {"value": np.abs(arrays["value"])}, arguments, oracle.FLOAT64).output,
        oracle.backward(arrays, arguments, oracle.FLOAT64, np.abs(d_output)).value,
    )
    finfo: Any = ml_dtypes.finfo(case.array_dtype)
    for actual, expected, magnitude in zip(sums, exact, of_magnitudes, strict=True):
        allowed = 2 * float(finfo.eps) * magnitude + float(finfo.smallest_subnormal)
        assert np.all(np.abs(actual.astype(np.float64) - expected) <= allowed)

    assert output.dtype == case.array_dtype and log_sum_exp.dtype == case.log_sum_exp_dtype
    for name, gradient in gradients.items():
        assert (gradient.dtype, gradient.shape) == (arrays[name].dtype, arrays[name].shape)
        assert np.all(np.isfinite(gradient.astype(np.float32)))


@properties
@given(case=cases(**NO_POSITIONS, lengths=st.sampled_from([None, "query"])), seed=st.integers(0, 99))
@example(case=Case("bfloat16", bias="full", mask="full", segments="packed", sinks=True), seed=0)
def test_the_order_of_keys_does_not_matter(case: Case, seed: int) -> None:
    arrays = case.arrays()
    order = np.random.default_rng(seed).permutation(case.key_length)
    results, gradients = evaluate_wider(case, attention_of(case), along(AXIS_OF_KEYS, arrays, order))
    assert_right(case, arrays, results, along(AXIS_OF_KEYS, gradients, np.argsort(order)))


def _over_keys(attention: Call, arrays: Arrays, start: int, stop: int) -> Any:
    """Attention to the keys [start, stop), which stand where they stood among all of them."""
    part = along(AXIS_OF_KEYS, arrays, slice(start, stop))
    part["query_offset"] = jnp.asarray(arrays.get("query_offset", 0), jnp.int32) - start
    if "key_value_seq_lengths" in arrays:
        part["key_value_seq_lengths"] = jnp.asarray(arrays["key_value_seq_lengths"]) - start
    return attention(**part)


@pytest.mark.slow
@properties
@given(
    case=cases(key_length=130, **OWN_OFFSET),
    split=st.sampled_from([0, 1, 64, 100, 130]),
    half_with_sinks=st.sampled_from([0, 1]),
)
# Causal: early rows see no key of the second half. Window: late rows none of the first. Lengths: some rows none at all.
@example(case=Case(query_length=130, is_causal=True, sinks=True), split=64, half_with_sinks=1)
@example(case=Case(query_length=130, window=(9, 9), bias="head"), split=64, half_with_sinks=0)
@example(case=Case(is_causal=True, lengths="both", batch=7, nan_padding=True, bias="full"), split=64, half_with_sinks=0)
def test_halves_of_the_keys_merge_into_the_whole(case: Case, split: int, half_with_sinks: int) -> None:
    attention = attention_of(case)

    def merged(**arrays: Any) -> Any:
        without_sinks = {name: array for name, array in arrays.items() if name != "sinks"}
        halves = [
            _over_keys(attention, arrays if half == half_with_sinks else without_sinks, *span)
            for half, span in enumerate([(0, split), (split, case.key_length)])
        ]
        return jax_fa4.merge(*halves[0], *halves[1])

    assert_right(case, case.arrays(), *evaluate_wider(case, merged, case.arrays()))


@properties
@given(
    case=cases(is_causal=True, query_length=130, key_length=193, **OWN_OFFSET, **OWN_LENGTHS),
    rows=st.sampled_from([1, 17, 64, 100]),
)
@example(case=Case("bfloat16", query_length=130, key_length=193, is_causal=True), rows=70)
def test_causal_rows_do_not_depend_on_later_keys(case: Case, rows: int) -> None:
    arrays, other = case.arrays(), dataclasses.replace(case, seed=case.seed + 100).arrays()
    later = np.s_[:, max(0, int(np.max(arrays.get("query_offset", 0))) + rows) :]
    changed = arrays | {"key": arrays["key"].copy(), "value": arrays["value"].copy()}
    changed["key"][later], changed["value"][later] = 8 * other["key"][later], 8 * other["value"][later]
    attention = attention_of(case)
    (one, one_gradients), (two, two_gradients) = evaluate(case, attention, arrays), evaluate(case, attention, changed)
    for before, after in [*zip(one, two, strict=True), (one_gradients["query"], two_gradients["query"])]:
        assert before[:, :rows].tobytes() == after[:, :rows].tobytes()


def test_causal_rows_depend_on_the_last_key_that_they_see() -> None:
    """The counterpart: that test is not passed by results that depend on nothing."""
    case, last = Case(is_causal=True), 9
    arrays = case.arrays()
    changed = arrays | {"key": arrays["key"].copy()}
    changed["key"][:, last] += 1
    attention = attention_of(case)
    for before, after in zip(
        evaluate(case, attention, arrays)[0], evaluate(case, attention, changed)[0], strict=True
    ):  # fmt: skip
        assert np.all(before[:, :last] == after[:, :last])
        assert np.all(before[:, last] != after[:, last])


def _over_queries(attention: Call, arrays: Arrays, start: int, stop: int) -> Any:
    """Attention of the queries [start, stop), which stand where they stood among all of them."""
    part = along(AXIS_OF_QUERIES, arrays, slice(start, stop))
    part["query_offset"] = jnp.asarray(arrays.get("query_offset", 0), jnp.int32) + start
    if "query_seq_lengths" in arrays:
        part["query_seq_lengths"] = jnp.asarray(arrays["query_seq_lengths"]) - start
    return attention(**part)


def _concatenated(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=1), *parts)


@properties
@given(case=cases(query_length=130, **OWN_OFFSET), cuts=st.sampled_from([(64,), (1, 65), (33, 100), (129,)]))
@example(case=Case(query_length=130, is_causal=True, alibi=True, bias="full"), cuts=(1, 65))
def test_chunks_of_queries_with_their_offset_are_the_whole(case: Case, cuts: tuple[int, ...]) -> None:
    attention = attention_of(case)

    def chunked(**arrays: Any) -> Any:
        spans = itertools.pairwise((0, *cuts, case.query_length))
        return _concatenated([_over_queries(attention, arrays, *span) for span in spans])

    assert_right(case, case.arrays(), *evaluate_wider(case, chunked, case.arrays()))


@pytest.mark.parametrize(
    "case",
    [Case(is_causal=True, query_length=130), Case("bfloat16", query_length=130, is_causal=True, window=(40, None))],
    ids=lambda case: case.id,
)
def test_chunked_prefill_is_the_whole(case: Case) -> None:
    """Each chunk sees a cache of fixed size that is filled as far as its own keys; one program for all chunks."""
    chunk, arrays, traces = 26, case.arrays(), []

    @jax.jit
    def prefill(query: Array, key: Array, value: Array, start: Any) -> Any:
        traces.append(start)
        filled = (jnp.arange(case.key_length) < start + chunk)[:, None, None]
        key, value = jnp.where(filled, key, jnp.nan), jnp.where(filled, value, jnp.nan)
        lengths = jnp.full(case.batch, start + chunk, jnp.int32)
        return attention_of(case)(query, key, value, key_value_seq_lengths=lengths, query_offset=start)

    parts = [
        prefill(arrays["query"][:, start : start + chunk], arrays["key"], arrays["value"], np.int32(start))
        for start in range(0, case.query_length, chunk)
    ]
    assert len(traces) == 1
    tolerance.assert_forward(arrays, case.arguments(), *_concatenated(parts))


@properties
@given(
    case=cases(query_length=67, key_length=130, sinks=False, query_offset=None, **OWN_LENGTHS),
    query_length=st.sampled_from([1, 30, 64, 67]),
    key_length=st.sampled_from([1, 63, 64, 129]),
)
@example(case=Case(is_causal=True, causal_alignment="bottom_right", bias="full"), query_length=30, key_length=63)
def test_lengths_are_slicing(case: Case, query_length: int, key_length: int) -> None:
    arrays = case.arrays()
    padded = arrays | {name: arrays[name].copy() for name in ("query", "key", "value")}
    padded["query"][:, query_length:] = padded["key"][:, key_length:] = padded["value"][:, key_length:] = np.nan
    padded["query_seq_lengths"] = np.full(case.batch, query_length, np.int32)
    padded["key_value_seq_lengths"] = np.full(case.batch, key_length, np.int32)
    (output, log_sum_exp), gradients = evaluate_wider(case, attention_of(case), padded)

    def sliced(arrays: Arrays) -> Arrays:
        return along(AXIS_OF_QUERIES, along(AXIS_OF_KEYS, arrays, slice(key_length)), slice(query_length))

    rows = np.s_[:, :query_length]
    cotangents = tuple(array[rows] for array in case.cotangents())
    assert_right(case, sliced(arrays), (output[rows], log_sum_exp[rows]), sliced(gradients), cotangents)
    assert not np.any(output[:, query_length:]) and np.all(np.isneginf(log_sum_exp[:, query_length:]))
    for axes, length in ((AXIS_OF_QUERIES, query_length), (AXIS_OF_KEYS, key_length)):
        for name, beyond in along(axes, gradients, slice(length, None)).items():
            assert beyond.shape == gradients[name].shape or not np.any(beyond)


@properties
@given(case=cases(dtype=st.sampled_from(["float32", "bfloat16"]), scale=0.3), exponent=st.sampled_from([-3, 1, 4]))
def test_a_power_of_two_moves_exactly_between_scale_and_query(case: Case, exponent: int) -> None:
    factor = np.asarray(2.0**exponent, case.array_dtype)
    arrays, scaled = case.arrays(), dataclasses.replace(case, scale=0.3 * 2.0**exponent)
    results, gradients = evaluate(scaled, attention_of(scaled), arrays)
    others, of_others = evaluate(case, attention_of(case), arrays | {"query": arrays["query"] * factor})
    of_others["query"] = of_others["query"] * factor
    # Exactly, but for terms too small for normal numbers: at most 193 of them, off by 2**4 of the smallest each.
    nearly_zero = 2**12 * float(np.finfo(np.float32).tiny)
    for one, two in zip(jax.tree.leaves((results, gradients)), jax.tree.leaves((others, of_others)), strict=True):
        np.testing.assert_allclose(one.astype(np.float32), two.astype(np.float32), rtol=0, atol=nearly_zero)
