"""All-gather: every device gets all keys and values at once, and gives its share of their gradients back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_fa4.context_parallel import balance
from jax_fa4.context_parallel.plan import Call
from jax_fa4.context_parallel.ring import Sweep, Visit
from jax_fa4.spec import Array


def prepare(call: Call, query_chunk: int, key_chunk: int) -> tuple[Sequence[tuple[int, int] | None], Sweep]:
    """As ring.prepare: one visit of one block, the whole sequence in its order, a single chunk for all queries."""
    del query_chunk, key_chunk

    def gather(array: Array) -> Array:  # D B S ... to 1 B (all keys) ...
        everything = lax.all_gather(jnp.moveaxis(array, 0, 1), call.axes, axis=1, tiled=True)
        whole = everything.reshape(everything.shape[0], -1, *array.shape[3:])
        return balance.from_layout(whole, call.devices, layout=call.layout)[None]

    def scatter(gradient: Array, like: Array) -> Array:
        cut = balance.to_layout(gradient[0], call.devices, layout=call.layout)
        own = lax.psum_scatter(cut, call.axes, scatter_dimension=1, tiled=True)
        chunks, batch, length = like.shape[:3]
        return jnp.moveaxis(own.reshape(batch, chunks, length, *like.shape[3:]), 1, 0)

    def sweep(block: Any, visit: Visit, carry: Any) -> tuple[Any, Any]:
        carry, found = visit(carry, jax.tree.map(gather, block), jnp.zeros((1,), jnp.int32))
        return carry, jax.tree.map(scatter, found, tuple(block)[: len(found)])

    chunks = balance.chunks_of_devices(call.devices, call.layout).shape[1]
    return ((0, chunks),), sweep
