"""Meshes: types of values in them, and calls cut into shards. The only package that reads private names of JAX."""

from jax_fa4.rules.sharding.lowering import custom_call
from jax_fa4.rules.sharding.partitioner import register
from jax_fa4.rules.sharding.types import result_types, typed_like, vary_alike, vary_over, varying_axes

__all__ = ["custom_call", "register", "result_types", "typed_like", "vary_alike", "vary_over", "varying_axes"]
