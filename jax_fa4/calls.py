"""The FFI contract: targets, attributes, how absent operands travel, and the shapes of results.

ffi/spec.cc reads what stands here. Every operand has the same number of leading batch axes: those of vmap, outermost
first, then the caller's; each is of full extent or of extent 1 (shared). Absent operands and gradients that were not
asked for have the shape (0,).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_fa4.spec import DIFFERENTIABLE, Array, AttentionSpec, Operands

VERSION = 1
TARGETS = {
    "cpu": {"forward": "jax_fa4_cpu_forward", "backward": "jax_fa4_cpu_backward"},
    "cuda": {"forward": "jax_fa4_cuda_forward"},
    "sim": {"forward": "jax_fa4_sim_forward"},
}

ABSENT = (0,)
_ABSENT_DTYPES = {name: np.float32 for name in ("bias", "sinks", "alibi_slopes")} | {"mask": np.bool_}
# Axes behind the batch axes.
_TRAILING = {"query": 3, "bias": 3, "sinks": 1, "alibi_slopes": 1}

Shape = tuple[Any, ...]
Result = tuple[Shape, Any]  # shape, dtype


def attributes(spec: AttentionSpec) -> dict[str, Any]:
    """Attributes of the custom call, as NumPy scalars of the types that the handlers decode."""
    left, right = (-1 if side is None else side for side in spec.window)
    return {
        "version": np.int64(VERSION),
        "scale": np.float64(spec.scale),
        "logits_soft_cap": np.float64(spec.logits_soft_cap or 0.0),
        "window_left": np.int64(left),
        "window_right": np.int64(right),
        "deterministic": np.bool_(spec.deterministic),
        "differentiated": np.bool_(spec.differentiated),
    }


def pack(operands: Operands) -> list[Array]:
    """The operands of the forward call, absent ones as empty arrays."""
    return [
        jnp.zeros(ABSENT, _ABSENT_DTYPES.get(name, np.int32)) if array is None else array
        for name, array in operands._asdict().items()
    ]


def unpack(arrays: Sequence[Array]) -> Operands:
    """The inverse of pack."""
    return Operands(*(None if array.shape == ABSENT else array for array in arrays))


def batch_axes(operands: Operands) -> int:
    """How many leading batch axes every operand has."""
    return int(operands.query.ndim) - _TRAILING["query"]


def full_batch(axes: int, arrays: Iterable[Array | None]) -> Shape:
    """Extents of the batch axes: of each the one that is not 1, if any array of the call has one."""
    extents: list[Any] = [1] * axes
    for array in arrays:
        if array is not None and array.shape != ABSENT:
            extents = [own if own != 1 else extent for own, extent in zip(array.shape, extents, strict=False)]
    return tuple(extents)


def accumulation_dtype(operands: Operands) -> Any:
    """Of the log-sum-exp: float64 for a float64 query, else float32."""
    return jnp.float64 if operands.query.dtype == jnp.float64 else jnp.float32


def forward_results(spec: AttentionSpec, operands: Operands) -> tuple[Result, Result]:
    """Output (batch, T, N, Hv) and log-sum-exp (batch, N, T)."""
    batch = full_batch(batch_axes(operands), operands)
    length, heads = operands.query.shape[-3:-1]
    output = (*batch, length, heads, operands.value.shape[-1])
    dtype = operands.query.dtype if spec.out_dtype is None else jnp.dtype(spec.out_dtype)
    return (output, dtype), ((*batch, heads, length), accumulation_dtype(operands))


def backward_results(
    operands: Operands, residuals: Sequence[Array], gradients: Sequence[str], grad_dtype: str | None = None
) -> list[Result]:
    """One result for each of DIFFERENTIABLE, ABSENT where it is not asked for, in the operand's dtype.

    Gradients have full extents on vmap's axes. On the caller's axis those of bias, sinks and slopes have the operand's
    own extent: the kernels sum over what shares it.

    Args:
      operands: those of the forward call.
      residuals: output, log-sum-exp and their cotangents; vmap may map these alone (jax.jacrev does).
      gradients: names out of DIFFERENTIABLE.
      grad_dtype: AttentionSpec's.
    """
    batch = full_batch(batch_axes(operands), (*operands, *residuals))
    results: list[Result] = []
    for name in DIFFERENTIABLE:
        array = getattr(operands, name)
        if name not in gradients:
            results.append((ABSENT, jnp.float32))
            continue
        trailing = array.shape[-_TRAILING.get(name, _TRAILING["query"]) :]
        is_row = name in ("query", "key", "value")
        own = batch[-1] if is_row else array.shape[len(batch) - 1]
        dtype = jnp.dtype(grad_dtype) if is_row and grad_dtype else array.dtype
        results.append(((*batch[:-1], own, *trailing), dtype))
    return results
