"""Ulysses: an all-to-all gives each device all tokens of a share of the heads, and another takes the results back."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from jax_fa4.attention import run
from jax_fa4.context_parallel import balance
from jax_fa4.context_parallel.balance import Layout
from jax_fa4.rules import sharding
from jax_fa4.spec import Array, AttentionSpec, Operands


def attention(spec: AttentionSpec, axes: Sequence[str], layout: Layout, operands: Operands) -> tuple[Array, Array]:
    """Output (B, T, N, Hv) and log-sum-exp (B, T, N) of this device's queries (DeepSpeed-Ulysses, arXiv:2309.14509).

    Derivatives are those of attention on one device and of the collectives. Where there are fewer key/value heads than
    devices, each is copied to the devices whose query heads read it.

    Args:
      spec: the call.
      axes: mesh axes over which the length is cut, the major one first.
      layout: of tokens.
      operands: canonical; lengths and offset count from the first token of the sequence.

    Raises:
      ValueError: heads that cannot be shared out.
    """
    axes = tuple(axes)
    devices = lax.axis_size(axes)
    copies = _copies_of_key_heads(operands.query.shape[2], operands.key.shape[2], devices)
    own_heads = operands.query.shape[2] // devices
    first_head = lax.axis_index(axes) * own_heads

    def to_heads(array: Array) -> Array:  # (B, length / devices, heads, ...) to (B, length, heads / devices, ...)
        everything = lax.all_to_all(array, axes, split_axis=2, concat_axis=1, tiled=True)
        return balance.from_layout(everything, devices, layout=layout)

    def to_tokens(array: Array) -> Array:
        everything = balance.to_layout(array, devices, layout=layout)
        return lax.all_to_all(everything, axes, split_axis=1, concat_axis=2, tiled=True)

    def of_own_heads(array: Array | None) -> Array | None:
        return None if array is None else lax.dynamic_slice_in_dim(array, first_head, own_heads, axis=1)

    def of_all_tokens(ids: Array | None) -> Array | None:
        if ids is None:
            return None
        return balance.from_layout(lax.all_gather(ids, axes, axis=1, tiled=True), devices, layout=layout)

    whole = operands._replace(
        query=to_heads(operands.query),
        key=to_heads(jnp.repeat(operands.key, copies, axis=2)),
        value=to_heads(jnp.repeat(operands.value, copies, axis=2)),
        sinks=of_own_heads(operands.sinks),
        alibi_slopes=of_own_heads(operands.alibi_slopes),
        query_segment_ids=of_all_tokens(operands.query_segment_ids),
        key_value_segment_ids=of_all_tokens(operands.key_value_segment_ids),
    )
    output, log_sum_exp = run(spec, sharding.vary_alike(whole))
    return to_tokens(output), to_tokens(jnp.swapaxes(log_sum_exp, 1, 2))


def _copies_of_key_heads(query_heads: int, key_heads: int, devices: int) -> int:
    """How often each key/value head is needed for each device to get those that its query heads read."""
    if query_heads % devices:
        raise ValueError(
            f'strategy "ulysses" shares {query_heads} query heads out to {devices} devices: their number must be a '
            'multiple of the devices; use strategy "ring", which does not cut heads, or a smaller mesh axis'
        )
    if key_heads % devices and devices % key_heads:
        raise ValueError(
            f'strategy "ulysses" shares {key_heads} key/value heads out to {devices} devices: one number must be a '
            'multiple of the other; use strategy "ring", which does not cut heads'
        )
    return max(1, devices // key_heads)
