"""Attention of sequences that are cut over a mesh: rings, all-gather and Ulysses."""

from jax_fa4.context_parallel.attention import attention
from jax_fa4.context_parallel.balance import from_layout, local_positions, positions, to_layout
from jax_fa4.context_parallel.sharded import sharded_attention

__all__ = ["attention", "from_layout", "local_positions", "positions", "sharded_attention", "to_layout"]
