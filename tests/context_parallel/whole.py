"""Context parallelism seen from outside: whole arrays in the order of the sequence in, and out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from running import kernel_calls

from jax_fa4 import context_parallel

LENGTH_AXES = ("query", "key", "value", "query_segment_ids", "key_value_segment_ids")


def mesh(*sizes: int, names: tuple[str, ...] = ("context",), kind: AxisType = AxisType.Auto) -> Mesh:
    """A mesh of the first devices."""
    return jax.make_mesh(sizes, names, axis_types=(kind,) * len(sizes), devices=jax.devices()[: int(np.prod(sizes))])


def attention(devices: Mesh, **options: Any) -> Callable[..., Any]:
    """sharded_attention over axis "context", or over those of `axis_name`, with residual; returns f(**arrays)."""
    options = {"axis_name": "context", "layout": "contiguous", "mesh": devices, "return_residual": True} | options
    axes, layout = options["axis_name"], options["layout"]
    count = int(np.prod([devices.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes)]))

    def call(**arrays: Any) -> Any:
        placed = {
            name: context_parallel.to_layout(array, count, layout=layout) if name in LENGTH_AXES else array
            for name, array in arrays.items()
        }
        results = context_parallel.sharded_attention(**placed, **options)
        return tuple(context_parallel.from_layout(result, count, layout=layout) for result in results)

    return call


def loss_of(output: Any, log_sum_exp: Any) -> Any:
    """A number that depends on all results."""
    return jnp.sum(jnp.sin(output)) + jnp.sum(jnp.where(jnp.isfinite(log_sum_exp), log_sum_exp, 0) ** 2)


def assert_kernels(compiled: Any) -> None:
    """Forward and backward kernels are in the program: plain JAX is not compared with itself."""
    assert set(kernel_calls(compiled)) == {"jax_fa4_cpu_forward", "jax_fa4_cpu_backward"}


def assert_close(actual: Any, expected: Any) -> None:
    """Sums of float32 in two orders: a few roundings of the largest entry apart, nowhere near a factor of 2."""

    def check(one: Any, other: Any) -> None:
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(np.max(np.abs(other))))

    jax.tree.map(check, actual, expected)
