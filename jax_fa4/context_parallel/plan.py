"""What is known of a call before it runs: which blocks of keys a device must see, and which parts of them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from jax_fa4.context_parallel.balance import Layout, chunks_of_devices
from jax_fa4.spec import AttentionSpec


@dataclasses.dataclass(frozen=True)
class Call:
    """Everything static about a call. Hashable, so that it is part of jit's cache key.

    Attributes:
      spec: of the kernels' calls, whose results are partial sums.
      axes: mesh axes over which the length is cut, the major one first.
      sizes: their extents.
      strategy: "ring" or "all_gather".
      layout: one of balance.LAYOUTS.
      offset: position of the first query of the sequence; None if that is known at run time only.
    """

    spec: AttentionSpec
    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    strategy: str
    layout: Layout
    offset: int | None

    @property
    def devices(self) -> int:
        """Into how many parts the length is cut."""
        return int(np.prod(self.sizes))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A ring without the steps and the calls in which no device sees a key.

    Attributes:
      rotations: for each axis by how many devices keys and values are rotated when they are looked at, ascending.
      pairs: for each chunk of keys of a block the range of a device's chunks of queries, [first, last), that may see
        it; None if none may.
    """

    rotations: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[int, int] | None, ...]


@functools.lru_cache(maxsize=256)
def ring_plan(
    sizes: tuple[int, ...],
    layout: Layout,
    query_chunk: int,
    key_chunk: int,
    window: tuple[int | None, int | None],
    offset: int | None,
) -> Plan:
    """Plans a ring over devices that lie on a grid of these `sizes`.

    Args:
      sizes: of the mesh axes.
      layout: of queries and keys.
      query_chunk: queries of a chunk.
      key_chunk: keys of a chunk.
      window: AttentionSpec's.
      offset: Call's; where it is not known nothing is left out.
    """
    chunks = chunks_of_devices(int(np.prod(sizes)), layout)
    count = chunks.shape[1]
    if offset is None:
        return Plan(tuple(tuple(range(size)) for size in sizes), ((0, count),) * count)
    places = np.stack(np.unravel_index(np.arange(len(chunks)), sizes))
    rotations: list[set[int]] = [set() for _ in sizes]
    seen = np.zeros((count, count), bool)
    for rotation in np.ndindex(*sizes):
        sources = np.ravel_multi_index(
            tuple((places - np.reshape(rotation, (-1, 1))) % np.reshape(sizes, (-1, 1))), sizes
        )
        sees = _sees(
            chunks[:, :, None] * query_chunk + offset,
            query_chunk,
            chunks[sources][:, None, :] * key_chunk,
            key_chunk,
            window,
        ).any(axis=0)
        seen |= sees
        if sees.any():
            for needed, one in zip(rotations, rotation, strict=True):
                needed.add(one)
    pairs = tuple(_range_of(seen[:, chunk]) for chunk in range(count))
    return Plan(tuple(tuple(sorted(needed)) or (0,) for needed in rotations), pairs)


def _sees(
    query: np.ndarray[Any, Any],
    queries: int,
    key: np.ndarray[Any, Any],
    keys: int,
    window: tuple[int | None, int | None],
) -> np.ndarray[Any, Any]:
    """Whether any of the queries from position `query` on sees any of the keys from `key` on."""
    left, right = window
    sees = np.ones(np.broadcast_shapes(query.shape, key.shape), bool)
    if right is not None:
        sees &= key - (query + queries - 1) <= right
    if left is not None:
        sees &= query - (key + keys - 1) <= left
    return sees


def _range_of(seen: np.ndarray[Any, Any]) -> tuple[int, int] | None:
    (found,) = np.nonzero(seen)
    return (int(found[0]), int(found[-1]) + 1) if found.size else None
