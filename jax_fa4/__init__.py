"""FlashAttention-4 for JAX: exact attention as XLA FFI custom calls, on the CPU today."""

from jax_fa4 import context_parallel
from jax_fa4.attention import attention, which
from jax_fa4.export import EXPORT_SAFETY_CHECKS
from jax_fa4.merge import merge
from jax_fa4.rules.autodiff import CHECKPOINT_NAMES

__version__ = "0.1.0"

__all__ = ["CHECKPOINT_NAMES", "EXPORT_SAFETY_CHECKS", "attention", "context_parallel", "merge", "which"]
