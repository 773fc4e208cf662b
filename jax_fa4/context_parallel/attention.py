"""The call inside jax.shard_map: arguments to (Call, operands), and on to the strategy that was asked for."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax

from jax_fa4 import calls
from jax_fa4.attention import Alignment, Names, Window, prepare
from jax_fa4.context_parallel import balance, derivative, ulysses
from jax_fa4.context_parallel.balance import Layout
from jax_fa4.context_parallel.plan import Call
from jax_fa4.rules import autodiff, sharding
from jax_fa4.spec import Array, Operands

Strategy = Literal["ring", "all_gather", "ulysses"]
STRATEGIES = ("ring", "all_gather", "ulysses")
AxisName = str | tuple[str, ...]


def attention(
    query: Array,
    key: Array,
    value: Array,
    bias: None = None,
    mask: None = None,
    *,
    axis_name: AxisName,
    strategy: Strategy = "ring",
    layout: Layout = "contiguous",
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: Array | None = None,
    key_value_seq_lengths: Array | None = None,
    local_window_size: Window = None,
    implementation: Names = None,
    return_residual: bool = False,
    causal_alignment: Alignment = "top_left",
    query_offset: Array | int | None = None,
    logits_soft_cap: float | None = None,
    sinks: Array | None = None,
    alibi_slopes: Array | None = None,
    query_segment_ids: Array | None = None,
    key_value_segment_ids: Array | None = None,
    deterministic: bool = False,
) -> Any:
    """Attention of sequences whose length axis is cut over a mesh axis; called inside jax.shard_map on a device's part.

    `jax_fa4.attention` of the whole arrays, cut like its arguments: every device passes its tokens and gets the results
    of its queries. Positions, windows, lengths and offsets count from the first token of the whole sequence. Letters as
    there, T and S being the lengths of a device's part. Reverse mode, once; the gradients of what is replicated are
    summed over devices as those of any operation in jax.shard_map.

    Args:
      query: (B, T, N, H), or without the batch axis, which may then be left out of every argument.
      key: (B, S, K, H).
      value: (B, S, K, Hv).
      bias: refused, as is mask: they have an entry for each pair of tokens.
      mask: see bias.
      axis_name: mesh axis over which the length axes are cut, or several, the major one first: ("node", "gpu").
      strategy: "ring": keys and values travel from device to device while each computes with those that it holds; with
        a window only as far as it reaches. "all_gather": each device gets all keys and values of the sequence at once,
        again in the backward pass. "ulysses": each device gets all tokens of a share of the heads. Compared in
        docs/context_parallel.md.
      layout: "contiguous", or "zigzag": tokens are in the order of `to_layout`, in which a causal mask gives every
        device the same work.
      scale: as in `jax_fa4.attention`, like every argument from here on.
      is_causal: query i sees the keys j <= p(i) only.
      query_seq_lengths: (B,) int32, of the whole sequences.
      key_value_seq_lengths: (B,) int32, of the whole sequences.
      local_window_size: w or (left, right).
      implementation: as in `jax_fa4.attention`; of what each device computes.
      return_residual: also return the log-sum-exp.
      causal_alignment: "top_left" or "bottom_right", of the whole sequences.
      query_offset: int32 scalar or (B,). A ring leaves no step out where it is not a Python number.
      logits_soft_cap: Python number, finite and > 0.
      sinks: (N,), the same on every device.
      alibi_slopes: (N,), the same on every device.
      query_segment_ids: (B, T) int32, of this device's tokens.
      key_value_segment_ids: (B, S) int32, of this device's tokens.
      deterministic: gradients bitwise equal from run to run.

    Returns:
      (B, T, N, Hv) in the query's dtype, with return_residual also the log-sum-exp, (B, T, N) in float32 (float64 for
      float64 inputs): as one device would compute them, up to the order of float32 sums.

    Raises:
      TypeError, ValueError: an argument is of a wrong type, dtype, shape or value; lengths or heads that the layout or
        the strategy cannot cut; no mesh axis of that name. When tracing.
      NotImplementedError: bias or mask; what `jax_fa4.attention` raises; forward mode and second derivatives.
    """
    arguments = dict(locals())
    axes, sizes = _axes(axis_name)
    _check_choice("strategy", strategy, STRATEGIES)
    _check_choice("layout", layout, balance.LAYOUTS)
    _refuse_pairs(bias, mask)
    spec, operands = prepare(arguments)
    call = Call(spec, axes, sizes, strategy, layout, _static_offset(arguments, operands, sizes))
    for name in ("query", "key"):
        balance.chunk_size(getattr(operands, name).shape[1] * call.devices, call.devices, layout)
    if causal_alignment == "bottom_right":
        operands = operands._replace(query_offset=_bottom_right_offset(operands, call.devices))
    output, log_sum_exp = _run(call, operands)
    if query.ndim == 3:
        output, log_sum_exp = output[0], log_sum_exp[0]
    return (output, log_sum_exp) if return_residual else output


def _run(call: Call, operands: Operands) -> tuple[Array, Array]:
    if call.strategy == "ulysses":
        return ulysses.attention(call.spec, call.axes, call.layout, operands)
    dtype = jnp.dtype(calls.accumulation_dtype(operands)).name
    # Gradients of parameters are sums over all devices: in the dtype of accumulation, and rounded once.
    wide = {
        name: array.astype(dtype)
        for name in ("sinks", "alibi_slopes")
        if (array := getattr(operands, name)) is not None
    }
    operands = _within_int32(operands._replace(**wide), call.devices)
    operands = sharding.vary_alike(operands, lax.axis_index(call.axes))
    guarded = {
        name: autodiff.reverse_mode_only(array)
        for name in ("query", "key", "value", *wide)
        if (array := getattr(operands, name)) is not None
    }
    spec = dataclasses.replace(call.spec, out_dtype=dtype, grad_dtype=dtype, partial=True)
    return derivative.attention(dataclasses.replace(call, spec=spec), operands._replace(**guarded))


def _within_int32(operands: Operands, devices: int) -> Operands:
    """Lengths and offset of which the start of any chunk can be subtracted, or to which it can be added."""
    queries, keys = operands.query.shape[1] * devices, operands.key.shape[1] * devices
    limits = {
        "query_seq_lengths": (0, queries),
        "key_value_seq_lengths": (0, keys),
        "query_offset": (-(2**31) + keys, 2**31 - 1 - queries),
    }
    given = {name: array for name in limits if (array := getattr(operands, name)) is not None}
    return operands._replace(**{name: jnp.clip(array, *limits[name]) for name, array in given.items()})


def _axes(axis_name: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and extents of the mesh axes."""
    axes = tuple(axis_name) if isinstance(axis_name, (tuple, list)) else (axis_name,)
    if not axes or not all(isinstance(axis, str) for axis in axes) or len(set(axes)) < len(axes):
        raise TypeError(f"axis_name must be the name of a mesh axis or a tuple of different ones, got {axis_name!r}")
    try:
        return axes, tuple(int(lax.axis_size(axis)) for axis in axes)
    except NameError as error:
        raise ValueError(
            f"axis_name {axis_name!r} is not an axis that is mapped here ({error}): call "
            "jax_fa4.context_parallel.attention inside jax.shard_map over that axis, or call "
            "jax_fa4.context_parallel.sharded_attention, which does that"
        ) from error


def _check_choice(name: str, given: Any, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        close = difflib.get_close_matches(str(given), allowed, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name} is {given!r}, allowed are {', '.join(map(repr, allowed))}{hint}")


def _refuse_pairs(bias: Any, mask: Any) -> None:
    for name, array in (("bias", bias), ("mask", mask)):
        if array is not None:
            raise NotImplementedError(
                f"{name} has an entry for each pair of a query and a key, which do not lie on one device: context "
                "parallelism takes is_causal, local_window_size, segment ids, lengths and alibi_slopes instead; or cut "
                "batch and heads over the mesh and call jax_fa4.attention"
            )


def _static_offset(arguments: Mapping[str, Any], operands: Operands, sizes: tuple[int, ...]) -> int | None:
    """Position of the first query, where it is known when the call is traced."""
    offset = arguments["query_offset"]
    if arguments["causal_alignment"] == "bottom_right":
        if operands.query_seq_lengths is not None or operands.key_value_seq_lengths is not None:
            return None
        return int(operands.key.shape[1] - operands.query.shape[1]) * math.prod(sizes)
    if offset is None:
        return 0
    return int(offset) if isinstance(offset, numbers.Integral) else None


def _bottom_right_offset(operands: Operands, devices: int) -> Array:
    """Key length less query length of the whole sequences, (B,) or (1,) int32."""

    def length(lengths: Array | None, local: int) -> Array:
        whole = local * devices
        return jnp.full((1,), whole, jnp.int32) if lengths is None else jnp.clip(lengths, 0, whole)

    return length(operands.key_value_seq_lengths, operands.key.shape[1]) - length(
        operands.query_seq_lengths, operands.query.shape[1]
    )
