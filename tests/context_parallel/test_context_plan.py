"""Layouts of tokens, and which steps of a ring are left out: against the mask, pair by pair."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import whole
from jax.sharding import PartitionSpec as P

from jax_fa4 import context_parallel
from jax_fa4.context_parallel.plan import ring_plan

LAYOUTS = ("contiguous", "zigzag")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_layout_and_back(axis: int, layout: Any) -> None:
    array = jnp.moveaxis(jnp.arange(24 * 2 * 3).reshape(24, 2, 3), 0, axis)
    permuted = context_parallel.to_layout(array, 4, axis=axis, layout=layout)
    positions = context_parallel.positions(24, 4, layout=layout)
    np.testing.assert_array_equal(permuted, jnp.take(array, positions, axis=axis))
    np.testing.assert_array_equal(context_parallel.from_layout(permuted, 4, axis=axis, layout=layout), array)


def test_zigzag_is_one_early_and_one_late_chunk() -> None:
    positions = context_parallel.positions(12, 3).reshape(3, 4)
    np.testing.assert_array_equal(positions, [[0, 1, 10, 11], [2, 3, 8, 9], [4, 5, 6, 7]])


@pytest.mark.parametrize(("layout", "most"), [("contiguous", 2 - 1 / 8), ("zigzag", 1.0)])
def test_work_of_devices_under_a_causal_mask(layout: Any, most: float) -> None:
    """The busiest device's share of all visible pairs, in units of an equal share."""
    length, devices = 512, 8
    work = np.sum(context_parallel.positions(length, devices, layout=layout).reshape(devices, -1) + 1, axis=1)
    assert work.max() / work.mean() == pytest.approx(most, rel=0.01)


def test_local_positions() -> None:
    devices = whole.mesh(2, 4, names=("outer", "inner"))
    axes = ("outer", "inner")
    local = jax.shard_map(
        lambda: context_parallel.local_positions(6, axes), mesh=devices, in_specs=(), out_specs=P(axes)
    )
    np.testing.assert_array_equal(local(), context_parallel.positions(48, 8))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lengths_that_cannot_be_cut(layout: Any) -> None:
    with pytest.raises(ValueError, match="multiple of 3" if layout == "contiguous" else "multiple of 6"):
        context_parallel.to_layout(jnp.zeros((1, 10)), 3, layout=layout)


@pytest.mark.parametrize("window", [(None, 0), (5, 0), (16, 0), (17, 0), (None, None), (9, 9), (0, 40), (None, 3)])
@pytest.mark.parametrize("offset", [0, 16, -21])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", [(4,), (2, 3)])
def test_plan_is_what_the_mask_says(sizes: tuple[int, ...], layout: Any, offset: int, window: Any) -> None:
    """A rotation is kept if and only if some device then sees a key; so is a pair of chunks."""
    query_chunk, key_chunk = 8, 12
    devices = int(np.prod(sizes))
    count = 1 if layout == "contiguous" else 2
    # [device, chunk, place] of queries and keys, and the mask between all of them.
    query = context_parallel.positions(devices * count * query_chunk, devices, layout=layout) + offset
    key = context_parallel.positions(devices * count * key_chunk, devices, layout=layout)
    distance = key[None, :] - query[:, None]
    left, right = window
    mask = (left is None or -distance <= left) & (right is None or distance <= right) & np.ones_like(distance, bool)
    mask = mask.reshape(devices, count, query_chunk, devices, count, key_chunk).any(axis=(2, 5))
    expected: list[set[int]] = [set() for _ in sizes]
    pairs = np.zeros((count, count), bool)
    for device, source in np.argwhere(mask.any(axis=(1, 3))):
        places = zip(np.unravel_index(device, sizes), np.unravel_index(source, sizes), sizes, strict=True)
        for needed, (own, other, size) in zip(expected, places, strict=True):
            needed.add(int(own - other) % size)
        pairs |= mask[device, :, source]

    plan = ring_plan(sizes, layout, query_chunk, key_chunk, window, offset)
    assert [set(rotations) for rotations in plan.rotations] == [needed or {0} for needed in expected]
    for chunk, pair in enumerate(plan.pairs):
        (seeing,) = np.nonzero(pairs[:, chunk])
        assert pair == ((int(seeing[0]), int(seeing[-1]) + 1) if seeing.size else None)


def test_windows_shorten_contiguous_rings() -> None:
    """ceil((window + own length) / own length) steps, whatever the number of devices."""
    for window, steps in ((1, 2), (100, 2), (101, 3), (250, 4)):
        plan = ring_plan((16,), "contiguous", 100, 100, (window, 0), 0)
        assert plan.rotations == (tuple(range(steps)),)


def test_unknown_offsets_leave_nothing_out() -> None:
    plan = ring_plan((4,), "zigzag", 8, 8, (3, 0), None)
    assert plan.rotations == ((0, 1, 2, 3),)
    assert plan.pairs == ((0, 2), (0, 2))


def call(**overrides: Any) -> Any:
    """A call on two devices with some arguments changed."""
    arguments: dict[str, Any] = {name: jnp.zeros((1, 8, 4, 8)) for name in ("query", "key", "value")}
    arguments |= {"axis_name": "context", "mesh": whole.mesh(2)} | overrides
    return context_parallel.sharded_attention(**arguments)


@pytest.mark.parametrize(
    ("error", "words", "overrides"),
    [
        (ValueError, "strategy is 'rings', allowed are.*did you mean 'ring'", {"strategy": "rings"}),
        (ValueError, "layout is 'striped', allowed are 'contiguous', 'zigzag'", {"layout": "striped"}),
        (NotImplementedError, "bias has an entry for each pair", {"bias": jnp.zeros((4, 8, 8))}),
        (NotImplementedError, "mask has an entry for each pair", {"mask": jnp.ones((8, 8), bool)}),
        (ValueError, "length 6 cannot be cut into 4 chunks", {"query": jnp.zeros((1, 6, 4, 8)), "layout": "zigzag"}),
        (ValueError, "query of shape.*length 7 is no multiple of 2", {"query": jnp.zeros((1, 7, 4, 8))}),
        (ValueError, "heads 3 is no multiple of 2", {"query": jnp.zeros((1, 8, 3, 8)), "key": jnp.zeros((1, 8, 3, 8)),
         "value": jnp.zeros((1, 8, 3, 8)), "axis_name": (), "head_axis_name": "context"}),
        (ValueError, "the mesh has no axis 'model' to cut batch over", {"batch_axis_name": "model"}),
        (ValueError, "the mesh has no axis 'ring' to cut length over", {"axis_name": "ring"}),
        (ValueError, "mesh axis context is named twice", {"batch_axis_name": "context"}),
        (TypeError, "axis_name must be the name of a mesh axis or a tuple", {"axis_name": ()}),
        (ValueError, "needs a mesh", {"mesh": None}),
        (ValueError, "key has head_dim 5, query has 8", {"key": jnp.zeros((1, 8, 4, 5))}),
        (TypeError, "is_causal must be True or False", {"is_causal": 1}),
        (TypeError, "unexpected keyword argument 'dropout'", {"dropout": 0.1}),
    ],
)  # fmt: skip
def test_refusals(error: type[Exception], words: str, overrides: dict[str, Any]) -> None:
    with pytest.raises(error, match=words):
        call(**overrides)


@pytest.mark.parametrize(
    ("query_heads", "key_heads", "words"),
    [(6, 6, "6 query heads out to 4 devices.*multiple of the devices"), (12, 6, "6 key/value heads out to 4 devices")],
)
def test_heads_that_ulysses_cannot_cut(query_heads: int, key_heads: int, words: str) -> None:
    key = jnp.zeros((1, 8, key_heads, 8))
    with pytest.raises(ValueError, match=words):
        call(query=jnp.zeros((1, 8, query_heads, 8)), key=key, value=key, strategy="ulysses", mesh=whole.mesh(4))


def test_outside_of_shard_map() -> None:
    array = jnp.zeros((1, 8, 4, 8))
    with pytest.raises(ValueError, match=re.escape("inside jax.shard_map over that axis")):
        context_parallel.attention(array, array, array, axis_name="context")
