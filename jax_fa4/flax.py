"""Adapters that let flax.nnx.MultiHeadAttention and flax.linen.MultiHeadDotProductAttention run jax_fa4.attention."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.nnx.nn import dtypes

import jax_fa4


@dataclasses.dataclass(frozen=True)
class AttentionFn:
    """What Flax calls in place of its own dot_product_attention, with options of `jax_fa4.attention` that Flax lacks.

        nnx.MultiHeadAttention(..., attention_fn=AttentionFn(is_causal=True, local_window_size=(255, 0)))

    Equal options make equal objects, so that a model built twice is traced once. Differences from Flax's function:
    softmax is float32 whatever the dtype, a query that the mask leaves no key gives 0 instead of the mean of all
    values, and what the kernels do not do (dropout of weights, sowing them, replaced einsums) is refused.

    Attributes:
      scale, is_causal, local_window_size, logits_soft_cap, implementation: as in `jax_fa4.attention`. They are counted
        from the first query and key, which Flax's decode mode does not keep: there they are refused.
      deterministic_gradients: its `deterministic`, renamed because Flax's argument of that name is about dropout.
    """

    scale: float | None = None
    is_causal: bool = False
    local_window_size: int | tuple[int | None, int | None] | None = None
    logits_soft_cap: float | None = None
    implementation: str | tuple[str, ...] | None = None
    deterministic_gradients: bool = False

    def __call__(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        bias: jax.Array | None = None,
        mask: jax.Array | None = None,
        broadcast_dropout: bool = True,
        dropout_rng: jax.Array | None = None,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
        dtype: Any = None,
        precision: Any = None,
        module: Any = None,
        promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
        is_causal: bool = False,
        force_fp32_for_softmax: bool = False,
        einsum_dot_general: Callable[..., Any] | None = None,
        qk_attn_weights_einsum: Callable[..., Any] | None = None,
        attn_weights_value_einsum: Callable[..., Any] | None = None,
    ) -> jax.Array:
        """Attention of [batch..., length, heads, head_dim]; the signature is the union of nnx's and linen's.

        linen passes only the arguments that it finds named here, so those that must be refused are named too.
        `broadcast_dropout`, `dropout_rng` say how to drop, which never happens, and softmax is always float32.
        """
        _refuse_dropout(dropout_rate, deterministic)
        _refuse_sowing(module)
        _refuse_replaced_products(
            einsum_dot_general=einsum_dot_general,
            qk_attn_weights_einsum=qk_attn_weights_einsum,
            attn_weights_value_einsum=attn_weights_value_einsum,
        )
        _check_precision(precision)
        query, key, value = promote_dtype((query, key, value), dtype=dtype)
        batch = _batch_axes(query, key, value)
        causal = self.is_causal or is_causal
        self._refuse_positions_of_one_query(query, key, causal)
        out: jax.Array = jax_fa4.attention(
            _with_one_batch_axis(query, batch),
            _with_one_batch_axis(key, batch),
            _with_one_batch_axis(value, batch),
            bias=None if bias is None else _with_one_batch_axis(_broadcast_batch(bias, batch, "bias"), batch),
            mask=None if mask is None else _with_one_batch_axis(_broadcast_batch(mask, batch, "mask") != 0, batch),
            scale=self.scale,
            is_causal=causal,
            local_window_size=self.local_window_size,
            logits_soft_cap=self.logits_soft_cap,
            implementation=self.implementation,
            deterministic=self.deterministic_gradients,
        )
        return out.reshape(*batch, *out.shape[1:])

    def _refuse_positions_of_one_query(self, query: jax.Array, key: jax.Array, causal: bool) -> None:
        query_length, key_length = query.shape[-3], key.shape[-3]
        if query_length != 1 or key_length == 1 or not (causal or self.local_window_size is not None):
            return
        raise ValueError(
            f"is_causal={causal} and local_window_size={self.local_window_size} count from the first key, so a single "
            f"query against {key_length} keys would see only the cache's beginning. In decode mode leave both out of "
            "attention_fn and of the call: Flax's own mask hides what is not written yet, and a window can be passed "
            "in mask"
        )


attention_fn = AttentionFn()


def _refuse_dropout(dropout_rate: float, deterministic: bool) -> None:
    if dropout_rate > 0.0 and not deterministic:
        raise NotImplementedError(
            f"dropout of attention weights is not supported, got dropout_rate={dropout_rate} with deterministic="
            f"{deterministic}: pass dropout_rate=0.0 or deterministic=True, or drop out the layer's output instead"
        )


def _refuse_sowing(module: Any) -> None:
    if module is not None:
        raise NotImplementedError(
            f"attention weights are never formed, so they cannot be sown, got module={type(module).__name__}: call the "
            "layer with sow_weights=False, or build it with Flax's own dot_product_attention to look at the weights"
        )


def _refuse_replaced_products(**replacements: Callable[..., Any] | None) -> None:
    for name, replacement in replacements.items():
        if replacement is not None:
            raise NotImplementedError(
                f"the kernel's products cannot be replaced, got {name}={replacement!r}: leave it at None, "
                "or use Flax's own dot_product_attention for quantised products"
            )


def _check_precision(precision: Any) -> None:
    """Accepts every jax.lax.Precision: each is a lower bound that float32 accumulation of unrounded inputs meets."""
    given = tuple(precision) if isinstance(precision, (list, tuple)) else (precision,)
    try:
        for one in given:
            jax.lax.Precision(one)
    except (TypeError, ValueError):
        raise NotImplementedError(
            f"precision={precision!r} names an algorithm for matrix products that the kernel does not follow: "
            "it multiplies the inputs as they are and accumulates in float32; pass None or a jax.lax.Precision"
        ) from None


def _batch_axes(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[int, ...]:
    shapes = {"query": query.shape, "key": key.shape, "value": value.shape}
    if any(len(shape) < 3 or shape[:-3] != query.shape[:-3] for shape in shapes.values()):
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"query, key and value must be [batch..., length, heads, head_dim] with the same batch axes, got {got}"
        )
    return query.shape[:-3]


def _broadcast_batch(array: jax.Array, batch: tuple[int, ...], name: str) -> jax.Array:
    """Gives bias or mask all batch axes: kept at 1 if nothing varies over them, else at full extent."""
    array = jnp.asarray(array)
    missing = len(batch) + 3 - array.ndim
    if missing < 0:
        raise ValueError(
            f"{name} must be broadcastable to [batch..., heads, query length, key length], here {len(batch) + 3} axes, "
            f"got shape {array.shape}: remove leading axes"
        )
    array = array.reshape((1,) * missing + array.shape)
    shared = all(extent == 1 for extent in array.shape[:-3])
    return array if shared else jnp.broadcast_to(array, batch + array.shape[-3:])


def _with_one_batch_axis(array: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """Joins the batch axes to one; one of extent 1 where there are none."""
    leading = array.shape[: len(batch)]
    return array.reshape(math.prod(leading), *array.shape[-3:])
