"""Joining attention over two disjoint sets of keys into attention over both."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from jax_fa4.spec import Array


def merge(out1: Array, lse1: Array, out2: Array, lse2: Array) -> tuple[Array, Array]:
    """Joins two results of attention of the same queries, each over its own keys, into that over all the keys.

    Each result is an average of values under weights whose sum is exp(lse), so that

        lse = log(exp(lse1) + exp(lse2))
        out = exp(lse1 - lse) * out1 + exp(lse2 - lse) * out2

    evaluated with the larger log-sum-exp subtracted (online softmax: Milakov and Gimelshein, arXiv:1805.02867; of whole
    outputs: FlashAttention, Dao et al., arXiv:2205.14135). A row without keys, lse = -inf, adds nothing. Differentiable
    any number of times in all four arguments, in forward and reverse mode. At most one of the two may have counted a
    sink.

    Args:
      out1: first output, (..., T, N, Hv), any float dtype.
      lse1: its log-sum-exp, (..., T, N).
      out2: second output, of the shape of out1.
      lse2: its log-sum-exp, of the shape of lse1.

    Returns:
      out in the promoted dtype of out1 and out2, and lse. lse and all arithmetic are float64 if an argument is, else
      float32.

    Raises:
      ValueError: shapes that do not belong together.
    """
    if out1.shape != out2.shape or lse1.shape != out1.shape[:-1] or lse2.shape != out1.shape[:-1]:
        raise ValueError(
            f"merge: out1 {out1.shape} and lse1 {lse1.shape}, out2 {out2.shape} and lse2 {lse2.shape} do not fit: both "
            "outputs are (..., T, N, Hv), both log-sum-exps (..., T, N). attention() returns them so with "
            "return_residual=True."
        )
    dtypes = {array.dtype for array in (out1, lse1, out2, lse2)}
    dtype = jnp.dtype("float64" if jnp.dtype("float64") in dtypes else "float32")
    lse1, lse2 = lse1.astype(dtype), lse2.astype(dtype)
    maximum = lax.stop_gradient(jnp.maximum(lse1, lse2))
    # Rows empty on both sides: -inf - -inf and log(0) must appear nowhere, or derivatives are NaN.
    empty = maximum == -jnp.inf
    shift = jnp.where(empty, 0, maximum)
    weight1, weight2 = jnp.exp(lse1 - shift), jnp.exp(lse2 - shift)
    total = jnp.where(empty, 1, weight1 + weight2)
    out = (weight1[..., None] * out1.astype(dtype) + weight2[..., None] * out2.astype(dtype)) / total[..., None]
    lse = jnp.where(empty, -jnp.inf, shift + jnp.log(total))
    return out.astype(jnp.promote_types(out1.dtype, out2.dtype)), lse
