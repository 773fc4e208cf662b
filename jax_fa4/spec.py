"""What a call of attention is: its static half (AttentionSpec) and the names of its arrays (Operands)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

Array = Any  # a jax.Array, a tracer or a NumPy array

# Plain JAX: they run, differentiate and partition on every platform.
PLAIN_IMPLEMENTATIONS = ("blockwise", "reference")
# Our kernels, named after the platform that a program is lowered for.
KERNEL_IMPLEMENTATIONS = ("cpu", "cuda")
# The CUDA kernels on arrays of the CPU, by the driver that JAX_FA4_CUDA_DRIVER names: for tests in the simulator.
SIMULATED = "sim"
IMPLEMENTATIONS = (*KERNEL_IMPLEMENTATIONS, *PLAIN_IMPLEMENTATIONS)


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Everything static about a call. Hashable, so that it is part of jit's cache key.

    Attributes:
      scale: factor of the products of query and key; finite and > 0.
      window: (left, right): a query at position p sees the keys p - left <= j <= p + right; None is no limit on that
        side. A causal call is one whose right side is 0.
      logits_soft_cap: logits become cap * tanh(logits / cap); None is no cap.
      out_dtype: name of the output's dtype; None is the query's.
      grad_dtype: name of the dtype of the gradients of query, key and value; None is that of each.
      partial: these keys are a part of those that the queries see: the backward call is given the whole call's output
        and log-sum-exp, and returns its share of the gradients. Kernels need not know.
      differentiated: a backward call takes the log-sum-exp, and its probabilities are right only if rounding is alike
        in both: for few rows kernels do not take another order of additions, as they do in decoding.
      deterministic: gradients are asked to be bitwise equal from run to run.
      implementation: names tried in order (see IMPLEMENTATIONS); empty is the kernel of the platform lowered for.
    """

    scale: float
    window: tuple[int | None, int | None] = (None, None)
    logits_soft_cap: float | None = None
    out_dtype: str | None = None
    grad_dtype: str | None = None
    partial: bool = False
    differentiated: bool = False
    deterministic: bool = False
    implementation: tuple[str, ...] = ()


class Operands(NamedTuple):
    """The arrays of a call, in the order in which the FFI targets take them. Optional ones are None where absent.

    Every array starts with the same number of batch axes, each of full extent or of extent 1 (shared): B below.
    Plain JAX implementations see exactly one batch axis; the primitives see one or more (vmap's before the caller's).
    """

    query: Array  #                    B T N H
    key: Array  #                      B S K H
    value: Array  #                    B S K Hv
    bias: Array | None = None  #       B N T S, each of N, T and S may be 1
    mask: Array | None = None  #       B N T S boolean, likewise
    sinks: Array | None = None  #      B N
    alibi_slopes: Array | None = None  # B N
    query_segment_ids: Array | None = None  #      B T  int32
    key_value_segment_ids: Array | None = None  #  B S  int32
    query_seq_lengths: Array | None = None  #      B    int32
    key_value_seq_lengths: Array | None = None  #  B    int32
    query_offset: Array | None = None  #           B    int32


# The operands that have a gradient, in the order of the backward target's results.
DIFFERENTIABLE = ("query", "key", "value", "bias", "sinks", "alibi_slopes")
