"""attention is jax.nn.dot_product_attention, argument by argument, and does not have the known faults of its peers."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import tolerance
from cases import Array, Case
from running import DIFFERENTIABLE, forward_and_backward, results_and_gradients

import jax_fa4

Arrays = dict[str, Any]

jax_attention = functools.partial(jax.nn.dot_product_attention, implementation="xla")
# Shapes that show a confusion of any two axes: no two extents are alike.
SMALL = Case(batch=2, query_length=33, key_length=70, query_heads=6, key_value_heads=3, head_dim=16)


@dataclasses.dataclass(frozen=True)
class Parity:
    """A call that jax.nn has too.

    Attributes:
      case: makes the arrays.
      lengths: of each batch element, for each side; none leaves a row that is not padding without keys.
      options: arguments as given to both, over those of the case.
      is_unbatched: the batch axis, of extent 1, is left out of all arrays but lengths.
    """

    id: str
    case: Case = SMALL
    lengths: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None)
    options: tuple[tuple[str, Any], ...] = ()
    is_unbatched: bool = False

    def arrays(self) -> Arrays:
        arrays = self.case.arrays()
        if "mask" in arrays:
            # jax.nn averages the values of keys that are all masked; here such a row is 0, which has a test of its own.
            arrays["mask"][..., 0] = True
        for name, lengths in zip(("query_seq_lengths", "key_value_seq_lengths"), self.lengths, strict=True):
            if lengths is not None:
                arrays[name] = np.asarray(lengths, np.int32)
        return arrays

    def arguments(self) -> Arrays:
        return self.case.arguments() | dict(self.options)


def _small(**changes: Any) -> Case:
    return dataclasses.replace(SMALL, **changes)


PARITIES = (
    Parity("defaults"),
    Parity("scale", _small(scale=0.4)),
    Parity("causal", _small(is_causal=True)),
    Parity("causal, more queries than keys", _small(is_causal=True, query_length=70, key_length=33)),
    *(Parity(f"bias of {kind}", _small(bias=kind)) for kind in ("full", "head", "key", "query")),
    Parity("mask", _small(mask="full")),
    Parity("mask of keys", _small(mask="key", bias="head")),
    Parity("query lengths", lengths=((33, 11), None)),
    Parity("key lengths", lengths=(None, (9, 70))),
    Parity("both lengths, causal", _small(is_causal=True, query_length=70), lengths=((50, 70), (70, 31))),
    Parity("window, pair", _small(window=(5, 2))),
    Parity("window, one number", options=(("local_window_size", 4),)),
    Parity("window, causal", _small(is_causal=True, window=(7, 3), bias="full")),
    Parity("as many key heads", _small(query_heads=3)),
    Parity("one key head", _small(key_value_heads=1, mask="full", is_causal=True)),
    Parity("unbatched", _small(batch=1), is_unbatched=True),
    Parity("unbatched, bias and mask", _small(batch=1, bias="full", mask="key", window=(9, 9)), is_unbatched=True),
    Parity("unbatched, lengths", _small(batch=1, is_causal=True), ((20,), (50,)), is_unbatched=True),
    Parity("everything", _small(window=(30, 6), bias="full", mask="key", is_causal=True), ((33, 20), (68, 60))),
)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluate(attention: Callable[..., Any], options: Any, arrays: Arrays, cotangents: Any) -> Any:
    return results_and_gradients(
        functools.partial(attention, **dict(options), return_residual=True), arrays, cotangents
    )


def evaluate(attention: Callable[..., Any], arrays: Arrays, arguments: Arrays, d_output: Array, d_lse: Any = 0) -> Any:
    """((output, log-sum-exp), gradients by name) from one program; d_lse is 0 or that of each row."""
    dtype = arrays["query"].dtype if attention is jax_attention else np.float32
    cotangents = (d_output, np.broadcast_to(np.asarray(d_lse, dtype), d_output.shape[:-1]))
    return jax.tree.map(np.array, _evaluate(attention, tuple(arguments.items()), arrays, cotangents))


def test_every_argument_of_jax_is_ours() -> None:
    theirs = inspect.signature(jax.nn.dot_product_attention).parameters
    ours = inspect.signature(jax_fa4.attention).parameters
    for place, (name, parameter) in enumerate(theirs.items()):
        assert (ours[name].kind, ours[name].default) == (parameter.kind, parameter.default), name
        assert list(ours)[place] == name
    covered = {"query", "key", "value", "return_residual", "implementation"}
    covered |= {name for parity in PARITIES for name in (*parity.arrays(), *parity.arguments())}
    assert covered == set(theirs)


def check(parity: Parity, dtype: str, attention: Callable[..., Any], computing_dtype: str) -> None:
    """Parity is that of each with the oracle, by its rule, so that neither is held against the other's rounding."""
    case = dataclasses.replace(parity.case, dtype=dtype)
    parity = dataclasses.replace(parity, case=case)
    arrays, arguments, d_output = parity.arrays(), parity.arguments(), case.cotangents()[0]

    given = {name: array[0] if parity.is_unbatched and array.ndim > 1 else array for name, array in arrays.items()}
    given |= {name: array.astype(computing_dtype) for name, array in given.items() if name in DIFFERENTIABLE}
    results, gradients = evaluate(
        attention, given, arguments, d_output[0 if parity.is_unbatched else ...].astype(computing_dtype)
    )
    if parity.is_unbatched:
        assert results[0].ndim == 3
        results, gradients = jax.tree.map(lambda array: array[None], (results, gradients))

    tolerance.assert_backward(arrays, arguments, d_output, None, gradients)
    output, log_sum_exp = results
    if attention is not jax_attention:
        tolerance.assert_forward(arrays, arguments, output, log_sum_exp)
        return
    tolerance.assert_forward(arrays, arguments, output)
    exact = oracle.forward(arrays, arguments, oracle.FLOAT64).log_sum_exp
    # A very large negative number, rounded, in jax.nn.
    log_sum_exp = np.where(np.isneginf(exact), exact, log_sum_exp)
    tolerance.assert_close("log-sum-exp", log_sum_exp, exact, exact, dtype=case.array_dtype)


@pytest.mark.slow
@pytest.mark.parametrize("parity", PARITIES, ids=lambda parity: parity.id)
def test_jax_means_what_the_oracle_means(parity: Parity) -> None:
    """Computing in float32 with arrays of bfloat16: in bfloat16 it rounds more often than the naive evaluation does."""
    check(parity, "bfloat16", jax_attention, "float32")


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("parity", PARITIES, ids=lambda parity: parity.id)
def test_values_and_gradients_are_those_that_jax_means(parity: Parity, dtype: str) -> None:
    check(parity, dtype, jax_fa4.attention, dtype)


def test_calls_by_position_and_without_options_mean_the_same() -> None:
    case = _small(bias="full", mask="key")
    arrays = list(Parity("", case).arrays().values())
    tolerance.assert_forward(Parity("", case).arrays(), {}, jax_fa4.attention(*arrays))
    np.testing.assert_array_equal(jax_fa4.attention(*arrays), jax_fa4.attention(*arrays, return_residual=True)[0])


# From here on, what peers get wrong or leave out.


def test_log_sum_exp_is_float32_and_has_a_gradient() -> None:
    """jax.nn returns it in the query's dtype with its gradient stopped; other peers drop its cotangent."""
    case = _small(dtype="bfloat16", bias="head", sinks=True)
    arrays = case.arrays()
    d_output, d_log_sum_exp = np.zeros_like(case.cotangents()[0]), case.cotangents()[1]

    (_, log_sum_exp), gradients = evaluate(jax_fa4.attention, arrays, {}, d_output, d_log_sum_exp)
    assert log_sum_exp.dtype == np.float32
    tolerance.assert_forward(arrays, {}, log_sum_exp=log_sum_exp)
    assert {name for name, gradient in gradients.items() if np.any(gradient)} == {"query", "key", "bias", "sinks"}
    tolerance.assert_backward(arrays, {}, d_output, d_log_sum_exp, gradients)

    del arrays["sinks"]
    (_, theirs), of_theirs = evaluate(jax_attention, arrays, {}, d_output, d_log_sum_exp)
    assert theirs.dtype == case.array_dtype and not any(np.any(gradient) for gradient in of_theirs.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_that_sees_no_key_is_zero_and_gives_no_gradient(dtype: str) -> None:
    """jax.nn averages all values there, padding included."""
    case, blind = _small(dtype=dtype, mask="full", bias="full"), np.s_[:, 2:4]
    arrays = case.arrays()
    (output, log_sum_exp), gradients = forward_and_backward(case)
    assert not np.any(output[blind]) and np.all(np.isneginf(log_sum_exp[blind]))
    assert not np.any(gradients["query"][blind]) and not np.any(gradients["bias"][:, :, 2:4])
    assert np.all(np.any(output[:, 4:], axis=(2, 3))) and np.all(np.isfinite(log_sum_exp[:, 4:]))
    # Whatever cotangent such a row gets, nothing else notices.
    d_output = case.cotangents()[0]
    d_output[blind] = 1e3
    of_blind = evaluate(jax_fa4.attention, arrays, {}, d_output)[1]
    d_output[blind] = 0
    without = evaluate(jax_fa4.attention, arrays, {}, d_output)[1]
    jax.tree.map(np.testing.assert_array_equal, of_blind, without)


def test_values_may_be_narrower_or_wider_than_keys() -> None:
    """jax.nn refuses them."""
    for value_head_dim in (4, 40):
        case = _small(value_head_dim=value_head_dim, is_causal=True)
        (output, log_sum_exp), gradients = forward_and_backward(case)
        assert output.shape == (2, 33, 6, value_head_dim)
        tolerance.assert_forward(case.arrays(), case.arguments(), output, log_sum_exp)
        tolerance.assert_backward(case.arrays(), case.arguments(), *case.cotangents(), gradients)
        with pytest.raises(ValueError, match="value shape"):
            jax_attention(*case.arrays().values())


@pytest.mark.parametrize("shape", [(1, 6, 33, 70), (1, 1, 33, 70), (1, 6, 1, 70), (1, 1, 33, 1), (33, 70), ()])
def test_gradient_of_a_bias_that_the_batch_shares(shape: tuple[int, ...]) -> None:
    case = _small(bias="full")
    arrays = case.arrays()
    arrays["bias"] = case._normal("shared bias", shape, case.array_dtype)
    d_output = case.cotangents()[0]
    (output, _), gradients = evaluate(jax_fa4.attention, arrays, {}, d_output)
    assert gradients["bias"].shape == shape
    four_axes = (1,) * (4 - len(shape)) + shape
    arrays["bias"], gradients["bias"] = arrays["bias"].reshape(four_axes), gradients["bias"].reshape(four_axes)
    tolerance.assert_forward(arrays, {}, output)
    tolerance.assert_backward(arrays, {}, d_output, None, gradients)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bias_sinks_and_slopes_get_gradients(dtype: str) -> None:
    case = _small(dtype=dtype, bias="head", sinks=True, alibi=True, is_causal=True)
    _, gradients = forward_and_backward(case)
    for_each_head = {"bias": (0, 2, 3), "sinks": (), "alibi_slopes": ()}
    assert all(np.all(np.any(gradients[name], axis=axes)) for name, axes in for_each_head.items())
    tolerance.assert_backward(case.arrays(), case.arguments(), *case.cotangents(), gradients)


@pytest.mark.parametrize(("query_length", "key_length"), [(33, 70), (70, 33)])
@pytest.mark.parametrize("alignment", ["top_left", "bottom_right"])
def test_windows_where_lengths_differ(query_length: int, key_length: int, alignment: Any) -> None:
    """A window is about positions: query i is at i, or at i + S - T, and rows beyond all keys are 0."""
    window = (5, 2)
    case = _small(query_length=query_length, key_length=key_length, window=window, causal_alignment=alignment)
    ones = case.arrays() | {"query": np.zeros_like(case.arrays()["query"])}
    log_sum_exp = jax_fa4.attention(**ones, **case.arguments(), return_residual=True)[1]
    offset = key_length - query_length if alignment == "bottom_right" else 0
    seen = [
        len([j for j in range(key_length) if i + offset - window[0] <= j <= i + offset + window[1]])
        for i in range(query_length)
    ]
    np.testing.assert_array_equal(np.round(np.exp(log_sum_exp[0, :, 0])), seen)
    (output, log_sum_exp), gradients = forward_and_backward(case)
    tolerance.assert_forward(case.arrays(), case.arguments(), output, log_sum_exp)
    tolerance.assert_backward(case.arrays(), case.arguments(), *case.cotangents(), gradients)


def test_grouped_queries_make_no_copy_of_keys_for_each_query_head() -> None:
    """Some peers compute gradients of keys and values for each query head in memory, and add them up."""
    arrays = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in SMALL.arrays().items()}
    key_length = SMALL.key_length

    def both(query: Array, key: Array, value: Array, d_output: Array, repeats: int) -> Any:
        def call(query: Array, key: Array, value: Array) -> Any:
            key, value = (jnp.repeat(array, repeats, axis=2) for array in (key, value))
            return jax_fa4.attention(query, key, value)

        return jax.vjp(call, query, key, value)[1](d_output)

    def largest_array_over_keys(repeats: int) -> int:
        program = jax.jit(both, static_argnums=4).lower(*arrays.values(), arrays["query"], repeats).compile().as_text()
        shapes = ([int(extent) for extent in text.split(",")] for text in re.findall(r"\[([\d,]+)\]", program))
        return max(math.prod(shape) for shape in shapes if key_length in shape)

    keys = SMALL.batch * key_length * SMALL.key_value_heads * SMALL.head_dim
    assert largest_array_over_keys(repeats=1) == keys
    assert largest_array_over_keys(repeats=2) == 2 * keys


def _temporary_bytes(attention: Callable[..., Any], case: Case) -> int:
    arrays = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in case.arrays().items()}

    def loss(arrays: Arrays) -> Any:
        return jnp.sum(attention(**arrays, **case.arguments()))

    statistics = jax.jit(jax.grad(loss)).lower(arrays).compile().memory_analysis()
    assert statistics is not None
    return int(statistics.temp_size_in_bytes)


def test_memory_is_linear_in_the_lengths() -> None:
    """That of jax.nn is a few arrays of T x S for each head, and so is that of most peers' gradient of bias."""
    case = Case(batch=1, query_length=1024, key_length=1024, head_dim=8, is_causal=True, bias="key")
    logits_of_one_head = 4 * 1024 * 1024
    assert _temporary_bytes(jax_fa4.attention, case) < logits_of_one_head
    assert _temporary_bytes(jax_attention, case) > 4 * logits_of_one_head


def test_a_call_outside_jit_is_compiled_once(caplog: pytest.LogCaptureFixture) -> None:
    """A peer makes new functions at each call, which JAX then compiles anew."""
    arrays, options = SMALL.arrays(), {"is_causal": True, "logits_soft_cap": 3.0}
    gradient = jax.grad(lambda query, key, value: jnp.sum(jax_fa4.attention(query, key, value, **options)))

    def compilations() -> int:
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            jax.block_until_ready(gradient(*arrays.values()))
        return sum("Finished XLA compilation" in record.getMessage() for record in caplog.records)

    assert compilations() > 0
    assert compilations() == 0


def test_float32_is_computed_in_float32() -> None:
    """Peers that feed matrix units round float32 to bfloat16: errors of 2**-9 where these are of 2**-24."""
    case = Case(query_length=33, key_length=70, head_dim=64)
    output = np.asarray(jax_fa4.attention(**case.arrays()))
    exact = oracle.forward(case.arrays(), {}, oracle.FLOAT64).output
    rounded = {name: array.astype(jnp.bfloat16).astype(np.float32) for name, array in case.arrays().items()}
    of_rounded = oracle.forward(rounded, {}, oracle.FLOAT64).output
    assert 1000 * np.max(np.abs(output - exact)) < np.max(np.abs(of_rounded - exact))
