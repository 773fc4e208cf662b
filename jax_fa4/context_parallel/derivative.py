"""Ring and all-gather with a derivative of their own: nothing but the local arrays is kept for the backward pass."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jax_fa4.context_parallel import all_gather, balance, partial, ring
from jax_fa4.context_parallel.partial import Block, Residuals, Rows, State
from jax_fa4.context_parallel.plan import Call
from jax_fa4.rules import sharding
from jax_fa4.rules.autodiff import CHECKPOINT_NAMES
from jax_fa4.spec import Array, Operands

_STRATEGIES: dict[str, Any] = {"ring": ring, "all_gather": all_gather}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(call: Call, operands: Operands) -> tuple[Array, Array]:
    """Output (B, T, N, Hv) and log-sum-exp (B, T, N) of this device's queries and the keys of all devices.

    Args:
      call: what is static.
      operands: canonical, all varying over the same manual axes; sinks and slopes in the dtype of accumulation. Lengths
        and offset count from the first token of the sequence.
    """
    rows, block, visit_all = _prepare(call, operands)

    def visit(state: State, block: Block, key_starts: Array) -> tuple[State, tuple[()]]:
        return partial.forward(call.spec, rows, state, block, key_starts), ()

    sinks = None if operands.sinks is None else operands.sinks[0]
    state, _ = visit_all(block, visit, partial.start(call.spec, rows, sinks))
    return partial.uncut(state.output).astype(operands.query.dtype), partial.uncut(state.log_sum_exp)


def _forward(call: Call, operands: Operands) -> tuple[tuple[Array, Array], tuple[Operands, Array, Array]]:
    results = attention(dataclasses.replace(call, spec=dataclasses.replace(call.spec, differentiated=True)), operands)
    output, log_sum_exp = (checkpoint_name(x, name) for x, name in zip(results, CHECKPOINT_NAMES, strict=True))
    return (output, log_sum_exp), (operands, output, log_sum_exp)


def _backward(call: Call, kept: tuple[Operands, Array, Array], cotangents: tuple[Array, Array]) -> tuple[Operands]:
    # XLA would find that both passes send the same blocks, and keep what arrived in the forward pass.
    (operands, output, log_sum_exp), cotangents = lax.optimization_barrier((kept, cotangents))
    rows, block, visit_all = _prepare(call, operands)
    cut = functools.partial(partial.cut, chunks=rows.operands.query.shape[0])
    residuals = Residuals(
        cut(output), _heads_first(cut(log_sum_exp)), cut(cotangents[0]), _heads_first(cut(cotangents[1]))
    )

    def visit(sums: dict[str, Array], block: Block, key_starts: Array) -> tuple[dict[str, Array], tuple[Array, Array]]:
        return partial.backward(call.spec, rows, residuals, sums, block, key_starts)

    sums = {
        name: jnp.zeros_like(array, call.spec.grad_dtype)
        for name in ("query", "alibi_slopes")
        if (array := getattr(rows.operands, name)) is not None
    }
    axes = sharding.varying_axes(jax.typeof(operands.query))
    sums = {name: sharding.vary_over(axes, array) for name, array in sums.items()}
    sums, (d_key, d_value) = visit_all(block, visit, sums)
    found = {
        "query": partial.uncut(sums["query"]).astype(operands.query.dtype),
        "key": partial.uncut(d_key).astype(operands.key.dtype),
        "value": partial.uncut(d_value).astype(operands.value.dtype),
    }
    if operands.alibi_slopes is not None:
        found["alibi_slopes"] = sums["alibi_slopes"][0]
    if operands.sinks is not None:
        found["sinks"] = partial.gradient_of_sinks(operands.sinks[0], residuals)[None]
    return (Operands(*(found.get(name) for name in Operands._fields)),)


attention.defvjp(_forward, _backward)


def _prepare(call: Call, operands: Operands) -> tuple[Rows, Block, Any]:
    """This device's queries, its block, and visit_all(block, visit, carry), which shows it every block."""
    rank = lax.axis_index(call.axes)
    chunks = balance.chunks_of_device(rank, call.devices, call.layout)
    count = chunks.shape[0]
    query_chunk, key_chunk = operands.query.shape[1] // count, operands.key.shape[1] // count

    def cut(array: Array | None) -> Any:
        return None if array is None else partial.cut(array, count)

    block = Block(cut(operands.key), cut(operands.value), cut(operands.key_value_segment_ids))
    pairs, visit_all = _STRATEGIES[call.strategy].prepare(call, query_chunk, key_chunk)
    staying = operands._replace(
        query=cut(operands.query),
        value=operands.value,
        sinks=None,
        alibi_slopes=None if operands.alibi_slopes is None else operands.alibi_slopes[None],
        query_segment_ids=cut(operands.query_segment_ids),
    )
    return Rows(staying, chunks * query_chunk, pairs), block, visit_all


def _heads_first(array: Array) -> Array:
    return jnp.swapaxes(array, -1, -2)
