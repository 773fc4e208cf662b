"""What a device does with a block of keys and values: partial results, joined by their log-sum-exps; partial gradients.

Arrays are cut into the chunks of the layout, on a leading axis that the kernels take for one of vmap's. Letters: C
chunks of the queries, D of the block, B batch, T queries of a chunk, S keys of a chunk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_fa4 import primitive
from jax_fa4.merge import merge
from jax_fa4.rules import sharding
from jax_fa4.spec import Array, AttentionSpec, Operands


class Block(NamedTuple):
    """Keys and values of one device, or of all."""

    key: Array  #    D B S K H
    value: Array  #  D B S K Hv
    segment_ids: Array | None  # D B S


class State(NamedTuple):
    """Attention to the keys seen so far, in the dtype of accumulation."""

    output: Array  #       C B T N Hv
    log_sum_exp: Array  #  C B T N


class Residuals(NamedTuple):
    """Results of the whole call, and their cotangents."""

    output: Array  #         C B T N Hv
    log_sum_exp: Array  #    C B N T
    d_output: Array  #       C B T N Hv
    d_log_sum_exp: Array  #  C B N T


@dataclasses.dataclass(frozen=True)
class Rows:
    """This device's queries, and what else stays in place.

    Attributes:
      operands: without keys and values. What is cut has its chunks on a leading axis; slopes are (1, 1, N); lengths and
        offset, which count from the first token of the sequence, are (B,).
      starts: (C,) int32, position of each chunk's first query in the sequence.
      pairs: Plan's.
    """

    operands: Operands
    starts: Array
    pairs: Sequence[tuple[int, int] | None]

    def against(self, block: Block, key_starts: Array, chunk: int) -> tuple[slice, Operands]:
        """The chunks of queries that may see this chunk of the block, and the operands of that call."""
        pair = self.pairs[chunk]
        assert pair is not None
        seeing, one = slice(*pair), slice(chunk, chunk + 1)
        own, starts, key_start = self.operands, self.starts[seeing, None], key_starts[chunk]
        keys = own.key_value_seq_lengths
        offset = starts - key_start + (0 if own.query_offset is None else own.query_offset)
        return seeing, own._replace(
            query=own.query[seeing],
            key=block.key[one],
            value=block.value[one],
            query_segment_ids=None if own.query_segment_ids is None else own.query_segment_ids[seeing],
            key_value_segment_ids=None if block.segment_ids is None else block.segment_ids[one],
            query_seq_lengths=None if own.query_seq_lengths is None else own.query_seq_lengths - starts,
            key_value_seq_lengths=None if keys is None else keys[None] - key_start,
            query_offset=offset,
        )


def start(spec: AttentionSpec, rows: Rows, sinks: Array | None) -> State:
    """Attention to no key: 0, and the sinks (N,), which are thus counted exactly once."""
    operands = rows.operands
    chunks, batch, length, heads = operands.query.shape[:4]
    value_head_dim = operands.value.shape[-1]
    axes = sharding.varying_axes(jax.typeof(operands.query))
    zeros = jnp.zeros((chunks, batch, length, heads, value_head_dim), spec.out_dtype)
    nothing = jnp.full((heads,), -jnp.inf, spec.out_dtype) if sinks is None else sinks
    log_sum_exp = jnp.broadcast_to(nothing, zeros.shape[:-1])
    return State(sharding.vary_over(axes, zeros), sharding.vary_over(axes, log_sum_exp))


def forward(spec: AttentionSpec, rows: Rows, state: State, block: Block, key_starts: Array) -> State:
    """Attention to the block's keys too. A chunk whose keys nobody sees costs its call, whose loops are empty."""
    for chunk, pair in enumerate(rows.pairs):
        if pair is None:
            continue
        seeing, operands = rows.against(block, key_starts, chunk)
        output, log_sum_exp = primitive.forward(spec, operands)
        joined = merge(state.output[seeing], state.log_sum_exp[seeing], output, jnp.swapaxes(log_sum_exp, -1, -2))
        state = State(*(_with(old, seeing, new) for old, new in zip(state, joined, strict=True)))
    return state


def backward(
    spec: AttentionSpec, rows: Rows, residuals: Residuals, sums: dict[str, Array], block: Block, key_starts: Array
) -> tuple[dict[str, Array], tuple[Array, Array]]:
    """Adds the block's share to gradients of queries and slopes, and returns those of its keys and values.

    Probabilities come from the log-sum-exp of the whole call, so that shares add up to the gradients exactly.

    Args:
      spec: of the kernels' calls.
      rows: this device's.
      residuals: of the whole call.
      sums: "query" (C, B, T, N, H), and "alibi_slopes" (1, 1, N) where there are any.
      block: keys and values.
      key_starts: (D,) int32.
    """
    of_keys, of_values = [], []
    for chunk, pair in enumerate(rows.pairs):
        if pair is None:
            of_keys.append(jnp.zeros_like(block.key[:1], spec.grad_dtype))
            of_values.append(jnp.zeros_like(block.value[:1], spec.grad_dtype))
            continue
        seeing, operands = rows.against(block, key_starts, chunk)
        asked = ("key", "value", *sums)
        found = primitive.backward(spec, operands, [array[seeing] for array in residuals], asked)
        of_keys.append(found["key"])
        of_values.append(found["value"])
        sums = {
            name: _with(old, seeing, old[seeing] + found[name]) if name == "query" else old + found[name]
            for name, old in sums.items()
        }
    return sums, (_joined(of_keys), _joined(of_values))


def gradient_of_sinks(sinks: Array, residuals: Residuals) -> Array:
    """(N,): a sink is a key of value 0 that every row sees, so p * (0 - rowsum(dO * O) + dlse), summed over rows."""
    output, log_sum_exp, d_output, d_log_sum_exp = (array.astype(sinks.dtype) for array in residuals)
    # A row without keys whose sink is -inf as well has no probabilities.
    probability = jnp.where(log_sum_exp == -jnp.inf, 0, jnp.exp(sinks[:, None] - log_sum_exp))
    delta = jnp.swapaxes(jnp.sum(output * d_output, axis=-1), -1, -2)
    return jnp.sum(probability * (d_log_sum_exp - delta), axis=(0, 1, 3))


def cut(array: Array, chunks: int) -> Array:
    """(B, length, ...) to (chunks, B, length of a chunk, ...)."""
    return jnp.moveaxis(array.reshape(array.shape[0], chunks, -1, *array.shape[2:]), 1, 0)


def uncut(array: Array) -> Array:
    """The inverse of cut."""
    whole = jnp.moveaxis(array, 0, 1)
    return whole.reshape(whole.shape[0], -1, *whole.shape[3:])


def _with(array: Array, chunks: slice, values: Array) -> Array:
    return values if values.shape == array.shape else array.at[chunks].set(values)


def _joined(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays)
