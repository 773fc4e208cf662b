"""A million tokens, and arrays whose elements 32 bits do not count: rows here and there against the exact result."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerance
from devices import Device

pytestmark = pytest.mark.slow

MILLION = 1 << 20
ROWS = 4  # neighbours, of each place that is looked at
# Times a key: a query that gives this key nearly all of its weight, even among a million others.
AIM = 3


@dataclasses.dataclass(frozen=True)
class Large:
    """A call of bfloat16; all of it on the device alone."""

    queries: int
    keys: int
    query_heads: int
    key_value_heads: int
    head_dim: int
    batch: int = 1
    is_causal: bool = False

    @property
    def elements(self) -> tuple[int, int]:
        """Of queries and of keys."""
        rows = self.queries * self.query_heads, self.keys * self.key_value_heads
        return self.batch * rows[0] * self.head_dim, self.batch * rows[1] * self.head_dim

    def arrays(self, device: Device) -> dict[str, Any]:
        """Drawn there."""
        shapes = {
            "query": (self.queries, self.query_heads), "key": (self.keys, self.key_value_heads),
            "value": (self.keys, self.key_value_heads),
        }  # fmt: skip

        def draw(seed: Any, length: int, heads: int) -> Any:
            return jax.random.normal(seed, (self.batch, length, heads, self.head_dim), jnp.bfloat16)

        with jax.default_device(device.jax):
            seeds = jax.random.split(jax.random.key(0), 3)
            compiled = jax.jit(draw, static_argnums=(1, 2))
            return {name: compiled(seed, *shapes[name]) for name, seed in zip(shapes, seeds, strict=True)}

    def seen(self, row: int) -> int:
        """How many keys the rows from this one on see, the last of them all of these."""
        return row + ROWS if self.is_causal else self.keys

    def places(self) -> list[tuple[int, int]]:
        """Batch element and first row, of those that are looked at: the ends, and where it costs little the middle."""
        ends = (0, self.queries - ROWS)
        middle = (self.queries // 3, self.queries // 2 - 1)
        wanted = (*ends, *middle) if self.is_causal or self.keys < MILLION else ends
        entries = sorted({0, self.batch - 1})
        return [(entry, min(max(row, 0), self.queries - ROWS)) for entry in entries for row in wanted]


def aimed(large: Large, arrays: dict[str, Any], heads: tuple[int, ...]) -> dict[str, Any]:
    """Turns all but the last of the rows that are looked at to the first key, one in the middle, and the last they see.

    Without that each key has a millionth of a row, and a tile read from a wrong place would not show.
    """
    query, group = arrays["query"], large.query_heads // large.key_value_heads
    for entry, row in large.places():
        for head in heads:
            last = row + 2 if large.is_causal else large.keys - 1
            for i, key in enumerate((0, large.seen(row) // 2, last)):
                turned = AIM * arrays["key"][entry, key, head]
                query = query.at[entry, row + i, head * group : (head + 1) * group].set(turned)
    return arrays | {"query": query}


def check(large: Large, device: Device, heads: tuple[int, ...]) -> None:
    """Some rows of some heads of keys; all others must at least be finite."""
    arrays = aimed(large, large.arrays(device), heads)
    run = jax.jit(lambda arrays: device.attention(**arrays, is_causal=large.is_causal))
    output, log_sum_exp = jax.block_until_ready(run(arrays))
    assert device.watch.launches()
    assert bool(jnp.all(jnp.isfinite(log_sum_exp)))
    assert bool(jnp.all(jnp.isfinite(output)))
    group = large.query_heads // large.key_value_heads
    for entry, row in large.places():
        for head in heads:
            rows, own = slice(row, row + ROWS), slice(head * group, (head + 1) * group)
            last = large.seen(row)
            pick = {"query": (entry, rows, own)} | {
                name: (entry, slice(0, last), slice(head, head + 1)) for name in ("key", "value")
            }
            inputs = {name: np.asarray(arrays[name][index])[None] for name, index in pick.items()}
            if large.is_causal:
                inputs["query_offset"] = np.asarray(row, np.int32)
            found = (np.asarray(array[entry, rows, own])[None] for array in (output, log_sum_exp))
            tolerance.assert_forward(inputs, {"is_causal": large.is_causal}, *found)


@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
def test_a_million_tokens(is_causal: bool, device: Device) -> None:
    length = MILLION if device.is_gpu else 1031
    check(Large(length, length, 2, 1, 64, is_causal=is_causal), device, heads=(0,))


# More elements than 32 bits count, in queries and in keys; by the length, and by the batch.
LARGE = {
    "queries": (Large(MILLION, 200, 17, 1, 128), (0,)),
    "keys": (Large(150, MILLION, 17, 17, 128), (0, 16)),
    "batch": (Large(1000, 300, 16, 16, 128, batch=1050), (0, 15)),
}


@pytest.mark.parametrize("which", LARGE)
def test_offsets_of_64_bits(which: str, device: Device) -> None:
    large, heads = LARGE[which]
    if device.is_gpu:
        assert max(large.elements) > 2**31
    else:
        fewer = {"query_heads": large.query_heads // large.key_value_heads, "key_value_heads": 1, "batch": 2}
        large = dataclasses.replace(large, queries=min(large.queries, 300), keys=min(large.keys, 400), **fewer)
        heads = (0,)
    check(large, device, heads)
