"""What attention means here: the mathematics in plain jnp, with logits of O(T S), for reading and for tests."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from jax_fa4.spec import Array, AttentionSpec, Operands


def attention(spec: AttentionSpec, operands: Operands) -> tuple[Array, Array]:
    """Output (B, T, N, Hv) in spec.out_dtype and log-sum-exp (B, N, T), both differentiable any number of times."""
    rows, columns = jnp.arange(operands.query.shape[1]), jnp.arange(operands.key.shape[1])
    logits = masked_logits(spec, operands, rows, columns)
    log_sum_exp = _log_sum_exp(logits, operands.sinks)
    # The where keeps exp(-inf - -inf) = NaN out of empty rows, in derivatives too.
    shift = jnp.where(log_sum_exp == -jnp.inf, 0, log_sum_exp)
    output = weighted_values(jnp.exp(logits - shift[..., None]), real_values(operands, columns))
    return finish(spec, operands, output, log_sum_exp)


def masked_logits(spec: AttentionSpec, operands: Operands, rows: Array, columns: Array) -> Array:
    """Logits (B, N, rows, columns), -inf where a query may not see a key.

    Args:
      spec: the call.
      operands: arrays of the call, or a tile of them: what they hold along T and S belongs to these rows and columns.
      rows: index of each query of the tile in the whole sequence.
      columns: index of each key of the tile in the whole sequence.
    """
    dtype = accumulation_dtype(operands)
    query = _zero_padding(operands.query.astype(dtype), _real_queries(operands, rows))
    key = _zero_padding(operands.key.astype(dtype), _real_keys(operands, columns))
    logits = spec.scale * _query_key_products(query, key)
    if operands.bias is not None:
        logits = logits + operands.bias.astype(dtype)
    allowed = _allowed(spec, operands, rows, columns)
    if spec.logits_soft_cap is not None:
        # Without this where, a NaN or infinite logit of a masked key would reach gradients as 0 * NaN.
        logits = logits if allowed is None else jnp.where(allowed, logits, 0)
        logits = spec.logits_soft_cap * jnp.tanh(logits / spec.logits_soft_cap)
    if operands.alibi_slopes is not None:
        distance = jnp.abs(_distance(operands, rows, columns, dtype))
        logits = logits - operands.alibi_slopes.astype(dtype)[:, :, None, None] * distance[:, None]
    return logits if allowed is None else jnp.where(allowed, logits, -jnp.inf)


def real_values(operands: Operands, columns: Array) -> Array:
    """Values of these columns in the dtype of accumulation, zero where padding, whatever the padding holds."""
    return _zero_padding(operands.value.astype(accumulation_dtype(operands)), _real_keys(operands, columns))


def weighted_values(probability: Array, value: Array) -> Array:
    """Sums (B, N, T, Hv) of value (B, S, K, Hv) by probability (B, N, T, S); query head n reads kv head n // (N/K)."""
    batch, query_heads, rows, columns = probability.shape
    heads = value.shape[2]
    grouped = probability.reshape(batch, heads, query_heads // heads, rows, columns)
    output = jnp.einsum("bkgts,bskh->bkgth", grouped, value, precision=lax.Precision.HIGHEST)
    return output.reshape(output.shape[0], query_heads, rows, value.shape[3])


def finish(spec: AttentionSpec, operands: Operands, output: Array, log_sum_exp: Array) -> tuple[Array, Array]:
    """Brings output (B, N, T, Hv) to public layout and dtype, and both results to the batch extent of all operands."""
    batch = jnp.broadcast_shapes(*(operand.shape[:1] for operand in operands if operand is not None))
    output = jnp.swapaxes(output, 1, 2).astype(spec.out_dtype or operands.query.dtype)
    output = jnp.broadcast_to(output, batch + output.shape[1:])
    return output, jnp.broadcast_to(log_sum_exp, batch + log_sum_exp.shape[1:])


def accumulation_dtype(operands: Operands) -> Array:
    """Dtype of logits, softmax and sums: float64 if query, key or value is float64, else float32."""
    given = (operands.query.dtype, operands.key.dtype, operands.value.dtype)
    return jnp.dtype("float64" if jnp.dtype("float64") in given else "float32")


def _log_sum_exp(logits: Array, sinks: Array | None) -> Array:
    """Log-sum-exp (B, N, T) of logits and sink; -inf where there is nothing to sum."""
    maximum = jnp.max(lax.stop_gradient(logits), axis=-1, initial=-jnp.inf)
    if sinks is not None:
        sink = sinks.astype(logits.dtype)[:, :, None]
        maximum = jnp.maximum(maximum, lax.stop_gradient(sink))
    shift = jnp.where(maximum == -jnp.inf, 0, maximum)
    total = jnp.sum(jnp.exp(logits - shift[..., None]), axis=-1)
    if sinks is not None:
        total = total + jnp.exp(sink - shift)
    empty = total == 0
    return jnp.where(empty, -jnp.inf, shift + jnp.log(jnp.where(empty, 1, total)))


def _query_key_products(query: Array, key: Array) -> Array:
    batch, length, query_heads, head_dim = query.shape
    heads = key.shape[2]
    grouped = query.reshape(batch, length, heads, query_heads // heads, head_dim)
    products = jnp.einsum("btkgh,bskh->bkgts", grouped, key, precision=lax.Precision.HIGHEST)
    return products.reshape(products.shape[0], query_heads, length, key.shape[1])


def _allowed(spec: AttentionSpec, operands: Operands, rows: Array, columns: Array) -> Array | None:
    """Which key each query may see, broadcastable to (B, N, rows, columns); None where every query sees every key."""
    low, high = window_limits(spec, operands)
    conditions = []
    if low is not None:
        conditions.append((columns >= rows[:, None] + low[:, None, None])[:, None])
    if high is not None:
        conditions.append((columns <= rows[:, None] + high[:, None, None])[:, None])
    if (real := _real_queries(operands, rows)) is not None:
        conditions.append(real[:, None, :, None])
    if (real := _real_keys(operands, columns)) is not None:
        conditions.append(real[:, None, None, :])
    if operands.query_segment_ids is not None and operands.key_value_segment_ids is not None:
        equal = operands.query_segment_ids[:, :, None] == operands.key_value_segment_ids[:, None, :]
        conditions.append(equal[:, None])
    if operands.mask is not None:
        conditions.append(operands.mask)
    allowed = None
    for condition in conditions:
        allowed = condition if allowed is None else allowed & condition
    return allowed


def window_limits(spec: AttentionSpec, operands: Operands) -> tuple[Array | None, Array | None]:
    """Where the window lies relative to a query's index: query i sees the keys i + low <= j <= i + high.

    Returns:
      low and high, (B,) or (1,) int32; None where that side has no limit.
    """
    offset = jnp.zeros(1, jnp.int32) if operands.query_offset is None else operands.query_offset
    left, right = spec.window
    # Saturating sums of int32, cut to where adding an index cannot wrap and no key lies beyond.
    low = None if left is None else jnp.maximum(offset, left - 2**31) - left
    high = None if right is None else jnp.minimum(offset, 2**31 - 1 - right) + right
    return _cut(low), _cut(high)


def _cut(limit: Array | None) -> Array | None:
    return None if limit is None else jnp.clip(limit, -(2**30), 2**30)


def _distance(operands: Operands, rows: Array, columns: Array, dtype: Any) -> Array:
    """Position of each key less that of each query, (B, rows, columns), in a float dtype, where it cannot wrap."""
    distance = (columns - rows[:, None]).astype(dtype)[None]
    return distance if operands.query_offset is None else distance - operands.query_offset[:, None, None].astype(dtype)


def _real_queries(operands: Operands, rows: Array) -> Array | None:
    return _real(rows, operands.query_seq_lengths, operands.query_segment_ids)


def _real_keys(operands: Operands, columns: Array) -> Array | None:
    return _real(columns, operands.key_value_seq_lengths, operands.key_value_segment_ids)


def _real(index: Array, lengths: Array | None, segment_ids: Array | None) -> Array | None:
    """Which of these tokens are no padding, (B, tokens); None where all are real. Indices are in range: no clamp."""
    real = None if lengths is None else index < lengths[:, None]
    if segment_ids is not None:
        real = segment_ids >= 0 if real is None else real & (segment_ids >= 0)
    return real


def _zero_padding(rows: Array, real: Array | None) -> Array:
    return rows if real is None else jnp.where(real[:, :, None, None], rows, 0)
