"""Meshes: types of values (manual and Explicit axes), and calls cut into shards. The only package of private JAX names."""

from jax_fa4.rules.sharding.lowering import custom_call
from jax_fa4.rules.sharding.partitioner import register
from jax_fa4.rules.sharding.types import result_type, typed_like, vary_alike, varying_axes

__all__ = ["custom_call", "register", "result_type", "typed_like", "vary_alike", "varying_axes"]
