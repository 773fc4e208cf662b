"""The public call: arguments to (spec, operands), and on to the implementation that was asked for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp

from jax_fa4 import primitive, support, validation
from jax_fa4.rules import autodiff, sharding
from jax_fa4.spec import Array, AttentionSpec, Operands

Window = int | tuple[int | None, int | None] | None
Names = str | Sequence[str] | None
Alignment = Literal["top_left", "bottom_right"]


@overload
def attention(
    query: Array, key: Array, value: Array, bias: Array | None = ..., mask: Array | None = ..., *,
    scale: float | None = ..., is_causal: bool = ..., query_seq_lengths: Array | None = ...,
    key_value_seq_lengths: Array | None = ..., local_window_size: Window = ..., implementation: Names = ...,
    return_residual: Literal[False] = ..., causal_alignment: Alignment = ..., query_offset: Array | int | None = ...,
    logits_soft_cap: float | None = ..., sinks: Array | None = ..., alibi_slopes: Array | None = ...,
    query_segment_ids: Array | None = ..., key_value_segment_ids: Array | None = ..., deterministic: bool = ...,
) -> jax.Array: ...  # fmt: skip
@overload
def attention(
    query: Array, key: Array, value: Array, bias: Array | None = ..., mask: Array | None = ..., *,
    scale: float | None = ..., is_causal: bool = ..., query_seq_lengths: Array | None = ...,
    key_value_seq_lengths: Array | None = ..., local_window_size: Window = ..., implementation: Names = ...,
    return_residual: Literal[True], causal_alignment: Alignment = ..., query_offset: Array | int | None = ...,
    logits_soft_cap: float | None = ..., sinks: Array | None = ..., alibi_slopes: Array | None = ...,
    query_segment_ids: Array | None = ..., key_value_segment_ids: Array | None = ..., deterministic: bool = ...,
) -> tuple[jax.Array, jax.Array]: ...  # fmt: skip
def attention(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    *,
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
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Exact attention, softmax(scale * query @ key^T) @ value, in memory linear in the sequence lengths.

    Names and meanings follow `jax.nn.dot_product_attention` where it has them. Letters: B batch (its axis may be left
    out of every argument), T query length, S key length, N query heads, K key/value heads, H head_dim, Hv value
    head_dim.

    Query i stands at position p(i) = i + offset, key j at position j. For each query head and row the logits are

      x = scale * (query . key) + bias;  y = logits_soft_cap * tanh(x / logits_soft_cap);  z = y - slope * |p(i) - j|

    and masked keys are left out. Softmax and sums are in float32 whatever the inputs (float64 for float64).

    Args:
      query: (B, T, N, H), float32, bfloat16, float16 or float64.
      key: (B, S, K, H), the query's dtype. N is a multiple of K: query head n reads key head n // (N / K).
      value: (B, S, K, Hv), the query's dtype.
      bias: broadcastable to (B, N, T, S), any float dtype, added to the logits. Its gradient has its own shape.
      mask: broadcastable to (B, N, T, S), boolean, True where a query may see a key.
      scale: Python number, finite and > 0; default 1 / sqrt(H).
      is_causal: query i sees the keys j <= p(i) only.
      query_seq_lengths: (B,) int32; queries from that index on are empty rows. Clamped to [0, T].
      key_value_seq_lengths: (B,) int32; keys from that index on are not seen. Clamped to [0, S].
      local_window_size: w or (left, right), >= 0, None for no limit: query i sees p(i) - left <= j <= p(i) + right.
      implementation: None is our kernel for the platform that the program is lowered for. Or one of "cpu", "cuda",
        "blockwise" (memory-linear plain JAX: any platform, forward mode, any order), "reference" = "xla" (plain jnp,
        O(T S)), or a sequence of names: the first that can run the call on the platform does.
      return_residual: also return the log-sum-exp.
      causal_alignment: "top_left": offset 0. "bottom_right": offset S - T, or of each batch element its key length less
        its query length where lengths are given. Not together with query_offset.
      query_offset: int32 scalar or (B,), may be negative and may be traced: chunked prefill, caches, rings.
      logits_soft_cap: Python number, finite and > 0.
      sinks: (N,), any float dtype: an extra logit of each query head that takes probability and adds no value.
      alibi_slopes: (N,), any float dtype (ALiBi, Press et al. 2022).
      query_segment_ids: (B, T) int32; a query sees keys of its own segment only. Negative ids are padding.
      key_value_segment_ids: (B, S) int32. Both or neither.
      deterministic: gradients bitwise equal from run to run. On the CPU they always are.

    Returns:
      (B, T, N, Hv) in the query's dtype; with return_residual also the natural log-sum-exp of the logits, sink
      included, (B, T, N) in float32 (float64 for float64 inputs). Both are differentiable. A row that sees no key is
      0, its log-sum-exp the sink or -inf; query, key and value get no gradient from it.

    Raises:
      TypeError, ValueError: an argument is of a wrong type, dtype, shape or value; when tracing.
      NotImplementedError: no implementation that was asked for can run the call on the platform; when lowering.
        Or a kernel's derivative in forward mode was asked for (use implementation="blockwise").
    """
    arguments = dict(locals())
    spec, operands = prepare(arguments)
    output, log_sum_exp = run(spec, operands)
    log_sum_exp = jnp.swapaxes(log_sum_exp, 1, 2)
    if query.ndim == 3:
        output, log_sum_exp = output[0], log_sum_exp[0]
    return (output, log_sum_exp) if return_residual else output


def prepare(arguments: Mapping[str, Any]) -> tuple[AttentionSpec, Operands]:
    """All arguments of `attention` by name, checked, as (spec, canonical operands)."""
    names = validation.check_implementation(arguments["implementation"])
    operands = validation.check_arrays(Operands(**{name: arguments[name] for name in Operands._fields}))
    options = ("scale", "is_causal", "local_window_size", "logits_soft_cap", "causal_alignment", "return_residual")
    scale, window, soft_cap = validation.check_options(
        **{name: arguments[name] for name in options},
        deterministic=arguments["deterministic"],
        head_dim=operands.query.shape[-1],
        query_offset_given=arguments["query_offset"] is not None,
    )
    if arguments["causal_alignment"] == "bottom_right":
        operands = operands._replace(query_offset=_bottom_right_offset(operands))
    spec = AttentionSpec(scale, window, soft_cap, deterministic=bool(arguments["deterministic"]), implementation=names)
    return spec, operands


def run(spec: AttentionSpec, operands: Operands) -> tuple[Array, Array]:
    """Output (B, T, N, Hv) and log-sum-exp (B, N, T) of canonical operands."""
    if spec.implementation and spec.implementation[0] in primitive.PLAIN:
        return primitive.PLAIN[spec.implementation[0]](spec, operands)
    return autodiff.attention(spec, sharding.vary_alike(operands))


def which(query: Array, key: Array, value: Array, *args: Any, platform: str | None = None, **options: Any) -> str:
    """Says which implementation `attention` would use with these arguments, without running it.

    Args:
      query: as for `attention`; like all its arrays it may be a jax.ShapeDtypeStruct.
      key: likewise.
      value: likewise.
      *args: bias and mask, likewise.
      platform: "cpu", "cuda", ...; default is that of JAX's default backend.
      **options: the other arguments of `attention`.

    Returns:
      One of "cpu", "cuda", "blockwise", "reference".

    Raises:
      What `attention` raises, NotImplementedError included.
    """
    platform = platform or jax.default_backend()
    platform = {"gpu": "cuda"}.get(platform, platform)
    bound = inspect.signature(attention).bind(query, key, value, *args, **options)
    bound.apply_defaults()
    arrays = {name: array for name, array in bound.arguments.items() if hasattr(array, "shape")}
    chosen: list[str] = []

    def choose(arrays: dict[str, Array]) -> None:
        spec, operands = prepare({**bound.arguments, **arrays})
        chosen.append(support.choose(spec, operands, platform))

    jax.eval_shape(choose, arrays)
    return chosen[0]


def _bottom_right_offset(operands: Operands) -> Array:
    """Key length less query length, (B,) or (1,) int32."""

    def length(lengths: Array | None, extent: Any) -> Array:
        if lengths is None:
            return jnp.asarray(extent, jnp.int32)[None]
        return jnp.clip(lengths, 0, extent)

    query_length = length(operands.query_seq_lengths, operands.query.shape[1])
    return length(operands.key_value_seq_lengths, operands.key.shape[1]) - query_length
