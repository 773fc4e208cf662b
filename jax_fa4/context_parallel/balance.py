"""Layouts: which tokens of a sequence a device holds, so that under a causal mask each has the same work."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_fa4.spec import Array

Layout = Literal["contiguous", "zigzag"]
LAYOUTS = ("contiguous", "zigzag")


def chunks_of_devices(devices: int, layout: Layout) -> np.ndarray[Any, Any]:
    """(devices, chunks of a device): the number of each chunk, in the order in which a device holds them.

    contiguous: device r holds chunk r of n. zigzag: chunks r and 2n - 1 - r of 2n, an early and a late one, so that
    under a causal mask all devices see equally many keys (Llama 3, arXiv:2407.21783, section 3.3.2).
    """
    ranks = np.arange(devices)
    return ranks[:, None] if layout == "contiguous" else np.stack([ranks, 2 * devices - 1 - ranks], axis=1)


def chunks_of_device(rank: Array, devices: int, layout: Layout) -> Array:
    """The same of one device, whose rank may be traced: (chunks,) int32."""
    chunks = [rank] if layout == "contiguous" else [rank, 2 * devices - 1 - rank]
    return jnp.stack(chunks).astype(jnp.int32)


def to_layout(array: Array, devices: int, *, axis: int = 1, layout: Layout = "zigzag") -> Array:
    """Permutes the tokens of a whole sequence so that cutting it into equal parts gives each device its own.

    For anything that has a length axis: tokens, labels, position ids, segment ids. Done once, where data enter a model:
    what works on each token alone need not know.

    Args:
      array: (..., length, ...), in the order of the sequence; length a multiple of `devices`, for zigzag of twice that.
      devices: extent of the mesh axis, or of the mesh axes together, over which the length axis is cut.
      axis: the length axis.
      layout: "zigzag", or "contiguous", which leaves the array as it is.

    Raises:
      ValueError: an unknown layout; a length that cannot be cut so.
    """
    return _reorder(array, devices, axis, layout, inverse=False)


def from_layout(array: Array, devices: int, *, axis: int = 1, layout: Layout = "zigzag") -> Array:
    """The inverse of `to_layout`, with the same arguments: back to the order of the sequence."""
    return _reorder(array, devices, axis, layout, inverse=True)


def positions(length: int, devices: int, *, layout: Layout = "zigzag") -> np.ndarray[Any, Any]:
    """Where in the sequence each token of the permuted sequence stands: (length,) int32, for rotary embeddings.

    Args:
      length: of the whole sequence.
      devices: as in `to_layout`, and likewise `layout`.
    """
    size = chunk_size(length, devices, layout)
    chunks = chunks_of_devices(devices, layout).reshape(-1)
    return (chunks[:, None] * size + np.arange(size)).reshape(-1).astype(np.int32)


def local_positions(local_length: int, axis_name: str | tuple[str, ...], *, layout: Layout = "zigzag") -> Array:
    """The same of this device's tokens, inside jax.shard_map: (local_length,) int32.

    Args:
      local_length: tokens of one device.
      axis_name: mesh axis over which the length axis is cut, or several, the major one first.
      layout: as in `to_layout`.
    """
    devices = lax.axis_size(axis_name)
    size = chunk_size(local_length * devices, devices, layout)
    chunks = chunks_of_device(lax.axis_index(axis_name), devices, layout)
    return (chunks[:, None] * size + jnp.arange(size, dtype=jnp.int32)).reshape(-1)


def chunk_size(length: int, devices: int, layout: Layout) -> int:
    """Tokens of a chunk of a whole sequence of `length`; refuses lengths that cannot be cut."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is unknown: allowed are {', '.join(map(repr, LAYOUTS))}")
    count = devices * (1 if layout == "contiguous" else 2)
    if length % count:
        raise ValueError(
            f"a sequence of length {length} cannot be cut into {count} chunks, which layout {layout!r} has on "
            f"{devices} devices: its length must be a multiple of {count}; pad it, with negative segment ids"
        )
    return length // count


def _reorder(array: Array, devices: int, axis: int, layout: Layout, *, inverse: bool) -> Array:
    """Slices and a reversal, as a list of indices would become a gather."""
    axis %= array.ndim
    size = chunk_size(array.shape[axis], devices, layout)
    if layout == "contiguous":
        return array
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    if inverse:
        early, late = jnp.split(array.reshape(*before, devices, 2, size, *after), 2, axis=axis + 1)
        halves = [early, jnp.flip(late, axis)]
        return jnp.concatenate([half.reshape(*before, devices * size, *after) for half in halves], axis=axis)
    early, late = jnp.split(array.reshape(*before, 2 * devices, size, *after), 2, axis=axis)
    return jnp.stack([early, jnp.flip(late, axis)], axis=axis + 1).reshape(array.shape)
