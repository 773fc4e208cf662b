"""Attention in plain JAX with memory linear in T and S: online softmax over tiles of the logits of reference.py."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_fa4 import reference
from jax_fa4.spec import Array, AttentionSpec, Operands

# A tile of logits is BLOCK_QUERIES x BLOCK_KEYS for each batch element and head.
BLOCK_QUERIES = 256
BLOCK_KEYS = 256

# The axis that runs over queries and the one that runs over keys, of each operand that has one.
_QUERY_AXIS = {"query": 1, "bias": 2, "mask": 2, "query_segment_ids": 1}
_KEY_AXIS = {"key": 1, "value": 1, "bias": 3, "mask": 3, "key_value_segment_ids": 1}


class _State(NamedTuple):
    """Online softmax of the keys seen so far; the sums are of exp(logit - maximum)."""

    maximum: Array  # B N T, without derivative: the results do not depend on it
    total: Array  #   B N T
    output: Array  #  B N T Hv


def attention(spec: AttentionSpec, operands: Operands) -> tuple[Array, Array]:
    """Output (B, T, N, Hv) in spec.out_dtype and log-sum-exp (B, N, T), as reference.attention.

    Derivatives of any order in either mode. Reverse mode keeps the operands and recomputes each block of queries.
    """
    queries, keys = operands.query.shape[1], operands.key.shape[1]
    if queries == 0 or keys == 0:
        return reference.attention(spec, operands)
    rows, columns = min(BLOCK_QUERIES, queries), min(BLOCK_KEYS, keys)
    spec = dataclasses.replace(spec, out_dtype=spec.out_dtype or operands.query.dtype.name)
    operands = _in_accumulation_dtype(operands)
    if keys % columns:
        operands = operands._replace(key_value_seq_lengths=_at_most(keys, operands.key_value_seq_lengths))
    # All blocks of queries read the same blocks of keys. Bias and mask may be T x S: only rows of them are copied.
    shared = _blocks_of_keys(operands._replace(bias=None, mask=None), columns)

    def block_of_queries(start: Array) -> tuple[Array, Array]:
        block = _rows_from(operands, start, rows)
        own = _blocks_of_keys(Operands(None, None, None, bias=block.bias, mask=block.mask), columns)
        state = _scan_keys(spec, block, _overlay(shared, own), start + jnp.arange(rows), columns)
        empty = state.total == 0
        total = jnp.where(empty, 1, state.total)
        log_sum_exp = jnp.where(empty, -jnp.inf, state.maximum + jnp.log(total))
        return reference.finish(spec, block, state.output / total[..., None], log_sum_exp)

    # The last block of a ragged T starts early and overlaps its neighbour, so that no operand is padded along T.
    starts = jnp.minimum(jnp.arange(-(-queries // rows)) * rows, queries - rows)
    output, log_sum_exp = lax.map(jax.checkpoint(block_of_queries, prevent_cse=False), starts)
    return _join(output, 1, queries), _join(log_sum_exp, 2, queries)


def _scan_keys(spec: AttentionSpec, block: Operands, blocks_of_keys: Operands, rows: Array, width: int) -> _State:
    """Attention of one block of queries to all keys.

    Args:
      spec: the call.
      block: operands of these queries.
      blocks_of_keys: what is cut along S, blocks on a leading axis; None where all blocks of keys share what block has.
      rows: index of each query.
      width: number of keys in a block.
    """

    def step(state: _State, index_and_keys: tuple[Array, Operands]) -> tuple[_State, None]:
        index, keys = index_and_keys
        tile = _overlay(block, keys)
        columns = index * width + jnp.arange(width)
        visible = _may_see(spec, tile, rows, columns)
        if visible is None:
            return _absorb(spec, tile, rows, columns, state), None
        absorb = jax.checkpoint(lambda tile, state: _absorb(spec, tile, rows, columns, state), prevent_cse=False)
        return lax.cond(visible, absorb, lambda tile, state: state, tile, state), None

    no_keys = Operands(*(_without_keys(name, array) for name, array in block._asdict().items()))
    # A pass over no keys gives the state the batch extent, mesh axes and sharding that every further pass gives it.
    state = _absorb(spec, no_keys, rows, jnp.arange(0), _sink_only(block))
    count = -(-block.key.shape[1] // width)
    return lax.scan(jax.checkpoint(step, prevent_cse=False), state, (jnp.arange(count), blocks_of_keys))[0]


def _sink_only(block: Operands) -> _State:
    """The state before any key: a sink is a key seen first, whose value is zero."""
    heads, dtype = block.query.shape[2], block.query.dtype
    sink = jnp.full((1, heads, 1), -jnp.inf, dtype) if block.sinks is None else block.sinks[:, :, None]
    maximum = lax.stop_gradient(sink)
    total = jnp.exp(sink - jnp.where(maximum == -jnp.inf, 0, maximum))
    return _State(maximum, total, jnp.zeros((1, heads, 1, block.value.shape[3]), dtype))


def _absorb(spec: AttentionSpec, tile: Operands, rows: Array, columns: Array, state: _State) -> _State:
    """The state after the keys of one tile too."""
    logits = reference.masked_logits(spec, tile, rows, columns)
    maximum = jnp.maximum(state.maximum, jnp.max(lax.stop_gradient(logits), axis=-1, initial=-jnp.inf))
    # Of a row that has seen no key: exp(-inf - 0) = 0 instead of exp(-inf - -inf) = NaN.
    shift = jnp.where(maximum == -jnp.inf, 0, maximum)
    decay = jnp.exp(state.maximum - shift)
    weight = jnp.exp(logits - shift[..., None])
    return _State(
        maximum,
        decay * state.total + jnp.sum(weight, axis=-1),
        decay[..., None] * state.output + reference.weighted_values(weight, reference.real_values(tile, columns)),
    )


def _may_see(spec: AttentionSpec, tile: Operands, rows: Array, columns: Array) -> Array | None:
    """Whether any query of the tile may see any key, judged by limits alone: a scalar; None where no limit is set."""
    low, high = reference.window_limits(spec, tile)
    conditions = []
    if low is not None:
        conditions.append(columns[-1] >= rows[0] + low)
    if high is not None:
        conditions.append(columns[0] <= rows[-1] + high)
    if tile.query_seq_lengths is not None:
        conditions.append(rows[0] < tile.query_seq_lengths)
    if tile.key_value_seq_lengths is not None:
        conditions.append(columns[0] < tile.key_value_seq_lengths)
    if tile.query_segment_ids is not None and tile.key_value_segment_ids is not None:
        # Packed sequences have ascending ids, so that most tiles of two sequences differ in range.
        query_ids, key_ids = tile.query_segment_ids, tile.key_value_segment_ids
        conditions.append(query_ids.max(axis=1) >= key_ids.min(axis=1))
        conditions.append(key_ids.max(axis=1) >= query_ids.min(axis=1))
    if not conditions:
        return None
    visible = conditions[0]
    for condition in conditions[1:]:
        visible = visible & condition
    return jnp.any(visible)


def _in_accumulation_dtype(operands: Operands) -> Operands:
    """Converts what many tiles read, because a gradient is summed over tiles in the dtype of its operand."""
    dtype = reference.accumulation_dtype(operands)
    names = ["query", "key", "value", "sinks", "alibi_slopes"]
    # A bias of T x S is not copied: each element of its gradient comes from one tile.
    if operands.bias is not None and 1 in operands.bias.shape[2:]:
        names.append("bias")
    given = {name: getattr(operands, name) for name in names}
    return operands._replace(**{name: array.astype(dtype) for name, array in given.items() if array is not None})


def _at_most(keys: int, lengths: Array | None) -> Array:
    """Key lengths, (B,) or (1,), that end with the sequence: what pads the last block is beyond them."""
    return jnp.full(1, keys, jnp.int32) if lengths is None else jnp.minimum(lengths, keys)


def _rows_from(operands: Operands, start: Array, size: int) -> Operands:
    """Operands of one block of queries; what has extent 1 along T is shared by all."""
    rows = {
        name: lax.dynamic_slice_in_dim(array, start, size, axis)
        for name, axis in _QUERY_AXIS.items()
        if (array := getattr(operands, name)) is not None and array.shape[axis] > 1
    }
    return operands._replace(**rows)


def _without_keys(name: str, array: Array | None) -> Array | None:
    """The operand with no keys left in it."""
    if array is None or name not in _KEY_AXIS:
        return array
    return lax.slice_in_dim(array, 0, 0, axis=_KEY_AXIS[name])


def _blocks_of_keys(operands: Operands, size: int) -> Operands:
    """What runs along S in blocks on a leading axis, its ragged end zero-padded; None for all else and for extent 1."""
    blocks: dict[str, Array | None] = dict.fromkeys(Operands._fields)
    for name, axis in _KEY_AXIS.items():
        array = getattr(operands, name)
        if array is None or array.shape[axis] == 1:
            continue
        shape = array.shape
        count = -(-shape[axis] // size)
        array = jnp.pad(array, [(0, count * size - shape[axis] if i == axis else 0) for i in range(array.ndim)])
        array = array.reshape(*shape[:axis], count, size, *shape[axis + 1 :])
        blocks[name] = jnp.moveaxis(array, axis, 0)
    return Operands(**blocks)


def _overlay(below: Operands, above: Operands) -> Operands:
    """The operands above where given, else those below."""
    return Operands(*(low if high is None else high for low, high in zip(below, above, strict=True)))


def _join(blocks: Array, axis: int, length: int) -> Array:
    """Blocks (blocks, ..., size, ...) side by side along that axis of theirs; the last one ends at length."""
    count, size = blocks.shape[0], blocks.shape[axis + 1]
    last = lax.slice_in_dim(blocks[-1], count * size - length, size, axis=axis)
    if count == 1:
        return last
    others = jnp.moveaxis(blocks[:-1], 0, axis)
    others = others.reshape(*last.shape[:axis], (count - 1) * size, *last.shape[axis + 1 :])
    return jnp.concatenate([others, last], axis=axis)
