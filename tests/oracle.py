"""Attention and its analytic gradients in NumPy, written once and evaluated in a chosen precision."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# The static arguments of attention() that change its result.
STATIC_ARGUMENTS = frozenset({"scale", "is_causal", "local_window_size", "causal_alignment", "logits_soft_cap"})


@dataclasses.dataclass(frozen=True)
class Precision:
    """How the mathematics is evaluated.

    Attributes:
      accumulate: dtype of the products' sums, the softmax and the log-sum-exp.
      store: dtype of the inputs that this is the precision of: operands of products are rounded to it.
      order: 0 adds the terms of each sum as they come and rounds probabilities. Another number shuffles the terms and,
        like an online softmax, rounds exponentials relative to some reference, which a sum divides afterwards. Each
        number is another sample of rounding.
    """

    accumulate: np.dtype[Any]
    store: np.dtype[Any]
    order: int = 0

    def _shuffle(self, count: int) -> npt.NDArray[np.intp] | slice:
        return np.random.default_rng(self.order).permutation(count) if self.order else slice(None)

    def product(self, left: Array, right: Array) -> Array:
        """Matrix product of the last two axes."""
        order = self._shuffle(left.shape[-1])
        return left[..., order] @ right[..., order, :]

    def sum(self, array: Array) -> Array:
        """Sum over the last axis, one term after another: np.sum's pairwise tree is more exact than a naive loop."""
        if not array.shape[-1]:
            return np.zeros(array.shape[:-1], array.dtype)
        return np.cumsum(array[..., self._shuffle(array.shape[-1])], axis=-1)[..., -1]

    def rounded(self, array: Array) -> Array:
        """The operand of a product as a matrix unit reads it: rounded to `store`, then exact in `accumulate`."""
        return array.astype(self.store).astype(self.accumulate)

    def result(self, array: Array, like: Array, query: Array) -> Array:
        """In the dtype of the input that it belongs to, unless the call's inputs are of another precision than this."""
        return array.astype(like.dtype if query.dtype == self.store else self.accumulate)


FLOAT64 = Precision(np.dtype(np.float64), np.dtype(np.float64))
EXTENDED = Precision(np.dtype(np.longdouble), np.dtype(np.longdouble))


def naive(dtype: npt.DTypeLike, order: int = 0) -> Precision:
    """What a straightforward implementation does for inputs of `dtype`: the yardstick of tests/tolerance.py."""
    store = np.dtype(dtype)
    return Precision(store if store == np.float64 else np.dtype(np.float32), store, order)


def reference_precision(dtype: npt.DTypeLike) -> Precision:
    """A precision whose own error is negligible beside that of `dtype`."""
    if np.dtype(dtype) != np.float64:
        return FLOAT64
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        raise NotImplementedError("long double is float64 on this platform: float64 results have no better reference")
    return EXTENDED


class Result(NamedTuple):
    output: Array  #       B T N Hv
    log_sum_exp: Array  #  B T N


class Gradients(NamedTuple):
    query: Array
    key: Array
    value: Array
    bias: Array | None
    sinks: Array | None
    alibi_slopes: Array | None


class _Geometry(NamedTuple):
    """Where queries and keys stand and which pairs see each other; nothing of it depends on precision."""

    distance: Array  #       B 1 T S  position of the query minus that of the key
    visible: Array  #        B N T S  boolean
    is_query: Array  #       B T      boolean: false where the row is padding
    is_key: Array  #         B S      boolean


class _Evaluation(NamedTuple):
    """The forward pass with everything that its derivative needs; sequence axes after the head axis."""

    geometry: _Geometry
    query: Array  #             B N T H
    key: Array  #               B N S H   repeated for each query head
    value: Array  #             B N S Hv  likewise
    scale: float
    cap_slope: Array | float  # B N T S   derivative of the soft cap
    logits: Array  #            B N T S   -inf where not visible
    sinks: Array  #             N         -inf where there are none
    output: Array  #            B T N Hv  rounded
    log_sum_exp: Array  #       B N T


def _clamped_lengths(lengths: Array | None, batch: int, extent: int) -> Array:
    if lengths is None:
        return np.full(batch, extent)
    return np.clip(lengths.astype(np.int64), 0, extent)


def _offsets(
    inputs: Mapping[str, Array], arguments: Mapping[str, Any], query_lengths: Array, key_lengths: Array
) -> Array:
    """Position of each batch element's first query."""
    offset = inputs.get("query_offset")
    if arguments.get("causal_alignment", "top_left") == "bottom_right":
        if offset is not None:
            raise ValueError("causal_alignment='bottom_right' and query_offset both place the queries; give one")
        has_lengths = "query_seq_lengths" in inputs or "key_value_seq_lengths" in inputs
        extents = inputs["key"].shape[1] - inputs["query"].shape[1]
        return key_lengths - query_lengths if has_lengths else np.full_like(query_lengths, extents)
    return np.broadcast_to(np.asarray(0 if offset is None else offset, np.int64), query_lengths.shape)


def _geometry(inputs: Mapping[str, Array], arguments: Mapping[str, Any]) -> _Geometry:
    batch, query_length, query_heads, _ = inputs["query"].shape
    key_length = inputs["key"].shape[1]
    query_lengths = _clamped_lengths(inputs.get("query_seq_lengths"), batch, query_length)
    key_lengths = _clamped_lengths(inputs.get("key_value_seq_lengths"), batch, key_length)
    offsets = _offsets(inputs, arguments, query_lengths, key_lengths)
    positions = np.arange(query_length) + offsets[:, None]
    distance = positions[:, :, None] - np.arange(key_length)

    is_query = np.arange(query_length) < query_lengths[:, None]
    is_key = np.arange(key_length) < key_lengths[:, None]
    visible = np.ones((batch, query_length, key_length), bool)
    query_ids, key_ids = inputs.get("query_segment_ids"), inputs.get("key_value_segment_ids")
    if query_ids is not None and key_ids is not None:
        is_query = is_query & (query_ids >= 0)
        is_key = is_key & (key_ids >= 0)
        visible &= query_ids[:, :, None] == key_ids[:, None, :]
    visible &= is_query[:, :, None] & is_key[:, None, :]
    if arguments.get("is_causal", False):
        visible &= distance >= 0
    window = arguments.get("local_window_size")
    left, right = window if isinstance(window, tuple) else (window, window)
    if left is not None:
        visible &= distance <= left
    if right is not None:
        visible &= -distance <= right

    visible = np.broadcast_to(visible[:, None], (batch, query_heads, query_length, key_length))
    if "mask" in inputs:
        visible = visible & inputs["mask"]
    return _Geometry(distance[:, None], visible, is_query, is_key)


def _rows(array: Array, is_row: Array, heads: int, dtype: np.dtype[Any]) -> Array:
    """B L K H as B N L H, its padding zeroed, so that whatever lies there (NaN too) meets no product."""
    cleaned = np.where(is_row[:, :, None, None], array, np.zeros((), array.dtype)).astype(dtype)
    return np.repeat(np.swapaxes(cleaned, 1, 2), heads // array.shape[2], axis=1)


def _evaluate(inputs: Mapping[str, Array], arguments: Mapping[str, Any], precision: Precision) -> _Evaluation:
    unknown = set(arguments) - STATIC_ARGUMENTS
    if unknown:
        raise TypeError(f"static arguments {sorted(unknown)} are unknown; known are {sorted(STATIC_ARGUMENTS)}")
    geometry = _geometry(inputs, arguments)
    heads, head_dim = inputs["query"].shape[2:]
    dtype = precision.accumulate
    query = _rows(inputs["query"], geometry.is_query, heads, dtype)
    key = _rows(inputs["key"], geometry.is_key, heads, dtype)
    value = _rows(inputs["value"], geometry.is_key, heads, dtype)

    scale = arguments.get("scale")
    scale = head_dim**-0.5 if scale is None else scale
    logits = dtype.type(scale) * precision.product(query, np.swapaxes(key, 2, 3))
    if "bias" in inputs:
        logits = logits + inputs["bias"].astype(dtype)
    cap = arguments.get("logits_soft_cap")
    cap_slope: Array | float = 1.0
    if cap is not None:
        tanh = np.tanh(logits / dtype.type(cap))
        logits = dtype.type(cap) * tanh
        cap_slope = 1 - tanh**2
    if "alibi_slopes" in inputs:
        logits = logits - inputs["alibi_slopes"].astype(dtype)[:, None, None] * np.abs(geometry.distance).astype(dtype)
    logits = np.where(geometry.visible, logits, -np.inf)

    sinks = inputs["sinks"].astype(dtype) if "sinks" in inputs else np.full(heads, -np.inf, dtype)
    row_max = np.maximum(np.max(logits, axis=-1, initial=-np.inf), sinks[:, None])
    row_max = np.where(np.isfinite(row_max), row_max, dtype.type(0))
    weights = np.exp(logits - row_max[..., None])
    sink_weight = np.exp(sinks[:, None] - row_max)
    total = precision.sum(weights) + sink_weight
    with np.errstate(divide="ignore"):
        log_sum_exp = row_max + np.log(total)
    divisor = np.where(total > 0, total, dtype.type(1))[..., None]
    if precision.order:
        below = dtype.type(2) ** dtype.type(-precision.order / 4)  # the reference is above the largest logit
        output = precision.product(precision.rounded(weights * below), value) / (divisor * below)
    else:
        output = precision.product(precision.rounded(weights / divisor), value)
    output = np.swapaxes(output, 1, 2)
    output = precision.result(output, inputs["query"], inputs["query"])
    return _Evaluation(geometry, query, key, value, scale, cap_slope, logits, sinks, output, log_sum_exp)


def forward(inputs: Mapping[str, Array], arguments: Mapping[str, Any], precision: Precision) -> Result:
    """Output and log-sum-exp.

    Args:
      inputs: the arrays of a call by the names of attention()'s arguments, batched; absent ones left out.
      arguments: those of STATIC_ARGUMENTS that are not at their default.
      precision: FLOAT64, EXTENDED or naive(dtype).
    """
    evaluation = _evaluate(inputs, arguments, precision)
    return Result(evaluation.output, np.swapaxes(evaluation.log_sum_exp, 1, 2))


def _summed_to(array: Array, shape: tuple[int, ...], precision: Precision) -> Array:
    """The transpose of broadcasting `shape` to array.shape."""
    padded = (1,) * (array.ndim - len(shape)) + shape
    summed = [axis for axis, extent in enumerate(padded) if extent == 1]
    kept = [axis for axis, extent in enumerate(padded) if extent != 1]
    count = math.prod(array.shape[axis] for axis in summed)
    terms = np.transpose(array, kept + summed).reshape(*(padded[axis] for axis in kept), count)
    return precision.sum(terms).reshape(shape)


def backward(
    inputs: Mapping[str, Array],
    arguments: Mapping[str, Any],
    precision: Precision,
    d_output: Array,
    d_log_sum_exp: Array | None = None,
    *,
    per_row: bool = False,
) -> Gradients:
    """Gradients of sum(d_output * output) + sum(d_log_sum_exp * log_sum_exp) for every floating-point input.

    Like any backward pass it starts from the rounded output and the log-sum-exp: probabilities come from the latter.
    An empty row's log-sum-exp is its sink, so d_log_sum_exp of empty rows reaches the sinks; nothing else of them does.

    Args:
      per_row: leave the gradients of sinks and slopes as the terms (B, T, N) of their sums over rows.
    """
    evaluation = _evaluate(inputs, arguments, precision)
    geometry, dtype = evaluation.geometry, precision.accumulate
    batch, query_length, heads, _ = inputs["query"].shape
    d_out = _rows(d_output, geometry.is_query, heads, dtype)
    output = np.swapaxes(evaluation.output, 1, 2).astype(dtype)
    d_lse = np.zeros((batch, query_length, heads), dtype) if d_log_sum_exp is None else d_log_sum_exp.astype(dtype)
    # What the normalisation of a row adds to the derivative of each of its logits, usually written d_lse - delta.
    row_term = np.swapaxes(d_lse, 1, 2) - precision.sum(d_out * output)

    finite_lse = np.where(np.isfinite(evaluation.log_sum_exp), evaluation.log_sum_exp, dtype.type(0))
    probabilities = np.exp(evaluation.logits - finite_lse[..., None])
    d_probabilities = precision.product(d_out, np.swapaxes(evaluation.value, 2, 3))
    d_logits = np.where(geometry.visible, probabilities * (d_probabilities + row_term[..., None]), dtype.type(0))
    d_scores = np.where(geometry.visible, d_logits * evaluation.cap_slope, dtype.type(0))
    rounded = precision.rounded(d_scores)
    scale = dtype.type(evaluation.scale)
    d_query = scale * precision.product(rounded, evaluation.key)
    d_key = scale * precision.product(np.swapaxes(rounded, 2, 3), evaluation.query)
    d_value = precision.product(np.swapaxes(precision.rounded(probabilities), 2, 3), d_out)

    def result(gradient: Array, name: str) -> Array:
        return precision.result(gradient, inputs[name], inputs["query"])

    def shared(per_query_head: Array, name: str) -> Array:
        """Sum over the query heads that share a key/value head, back in the public layout."""
        length, groups, width = inputs[name].shape[1:]
        by_group = per_query_head.reshape(batch, groups, heads // groups, length, width).sum(axis=2)
        return result(np.swapaxes(by_group, 1, 2), name)

    def per_head(terms: Array, name: str) -> Array | None:
        if name not in inputs:
            return None
        terms = np.swapaxes(terms, 1, 2)
        return terms if per_row else result(_summed_to(terms, (heads,), precision), name)

    return Gradients(
        query=result(np.swapaxes(d_query, 1, 2), "query"),
        key=shared(d_key, "key"),
        value=shared(d_value, "value"),
        bias=result(_summed_to(d_scores, inputs["bias"].shape, precision), "bias") if "bias" in inputs else None,
        sinks=per_head(np.exp(evaluation.sinks[:, None] - finite_lse) * row_term, "sinks"),
        alibi_slopes=per_head(-precision.sum(d_logits * np.abs(geometry.distance).astype(dtype)), "alibi_slopes"),
    )
