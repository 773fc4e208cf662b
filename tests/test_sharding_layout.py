"""Who holds what when a call is cut: heads by their definition, sums by adding up; and words where JAX is other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jax_fa4
from jax_fa4 import calls
from jax_fa4.rules.sharding import axes, layout, partitioner
from jax_fa4.rules.sharding.layout import Cut, Layout

P = PartitionSpec
DEVICES = 8


def reads_the_right_keys(query_heads: int, key_heads: int, query_shards: int, key_shards: int) -> bool:
    """Whether each shard's query heads n read key head n // (local N / local K) of the shard that it is given."""
    local, local_keys = query_heads // query_shards, key_heads // key_shards
    if local % local_keys:
        return False
    for shard, head in itertools.product(range(query_shards), range(local)):
        first = shard // (query_shards // key_shards) * local_keys
        if first + head // (local // local_keys) != (shard * local + head) // (query_heads // key_heads):
            return False
    return True


def cuts_of_heads() -> Iterator[tuple[int, int, int]]:
    for key_heads, group in itertools.product(range(1, 7), range(1, 7)):
        for shards in range(1, key_heads * group + 1):
            if key_heads * group % shards == 0:
                yield key_heads * group, key_heads, shards


def test_heads_are_cut_as_their_definition_allows() -> None:
    for query_heads, key_heads, shards in cuts_of_heads():
        divisors = [d for d in range(1, shards + 1) if shards % d == 0 and key_heads % d == 0]
        right = [d for d in divisors if reads_the_right_keys(query_heads, key_heads, shards, d)]
        # The finest of the right ones, if any: each device gets no more keys than it needs.
        assert axes.key_shards(query_heads, key_heads, shards) == (right[-1] if right else None)


def cut_along(stride: int, shards: int) -> Cut:
    return Cut(shards, np.arange(DEVICES) // stride % shards)


@pytest.mark.parametrize("strides", [(1, 2), (4, 1), (2, 4)])
def test_partial_results_add_up(strides: tuple[int, int]) -> None:
    """Batch in two shards, heads in two, devices in two replicas: sums against adding up all that was computed."""
    batch, heads = (cut_along(stride, 2) for stride in strides)
    cut = Layout(DEVICES, {"b0": batch, "N": heads})
    computed = np.arange(1.0, 5.0).reshape(2, 2)  # by batch and heads
    partial = computed[batch.held, heads.held]
    for letters, expected in {
        ("b0", "N"): computed,
        (None, "N"): np.broadcast_to(computed.sum(0), (2, 2)),
        ("b0",): np.broadcast_to(computed.sum(1, keepdims=True), (2, 2)),
        (None,): np.full((2, 2), computed.sum()),
    }.items():
        groups = cut.summands(letters)
        total = partial.copy()
        if groups is not None:
            assert sorted(groups.reshape(-1)) == list(range(DEVICES))
            total[groups] = partial[groups].sum(axis=1, keepdims=True)
        np.testing.assert_array_equal(total, expected[batch.held, heads.held])


def test_assignment_of_devices() -> None:
    """Every device is where it computes; replicas are in order, as XLA compares shardings with theirs."""
    batch, heads = cut_along(1, 2), cut_along(4, 2)
    found = Layout(DEVICES, {"b0": batch, "N": heads}).assignment(("b0", "T", "N", "H"))
    assert found.shape == (2, 1, 2, 1, 2)
    for (b, _, n, _, replica), device in np.ndenumerate(found):
        assert (batch.held[device], heads.held[device]) == (b, n)
        assert found[b, 0, n, 0, replica - 1] < device or replica == 0


def call_of(batch: int, query_heads: int, key_heads: int) -> axes.Call:
    key = (batch, 4, key_heads, 8)
    operands = [(batch, 4, query_heads, 8), key, key, *([(0,)] * 9)]
    return axes.of_call("forward", operands, [(batch, 4, query_heads, 8), (batch, query_heads, 4)])


def test_a_cut_that_would_mix_with_the_query_s_is_left_out() -> None:
    """Keys that lie over the devices of the query's batch are brought to it, not the other way round."""
    call = call_of(4, 2, 2)
    nothing = [None] * 4
    along = cut_along(1, 4)
    tilings = [[along, None, None, None], [None, None, cut_along(1, 2), None], nothing, *([[None]] * 9)]
    found = layout.of_call(call, DEVICES, tilings, [nothing, [None] * 3])
    assert found.cuts.keys() == {"b0"}


def test_shards_that_do_not_divide_are_refused() -> None:
    call = call_of(6, 2, 2)
    tilings = [[cut_along(1, 4), None, None, None], *([[None] * 4] * 2), *([[None]] * 9)]
    with pytest.raises(ValueError, match="6 batch elements are cut into 4 shards"):
        layout.of_call(call, DEVICES, tilings, [[None] * 4, [None] * 3])


def test_words_where_jax_has_no_partitioner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it XLA would gather everything, silently; one device and fully manual regions need none."""
    monkeypatch.setattr(partitioner, "AVAILABLE", False)
    mesh = jax.make_mesh((DEVICES // 2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    array = jnp.ones((DEVICES, 4, 1, 8))
    sharded = jax.device_put(array, NamedSharding(mesh, P("data")))
    partly = jax.shard_map(jax_fa4.attention, mesh=mesh, in_specs=P("data"), out_specs=P("data"), axis_names={"data"})
    for call in (jax_fa4.attention, partly):
        with pytest.raises(NotImplementedError, match=f"JAX {jax.__version__}.*shard_map.*blockwise"):
            jax.jit(call).lower(sharded, sharded, sharded)
    jax.jit(lambda a: jax_fa4.attention(a, a, a)).lower(array)
    mapped = jax.shard_map(jax_fa4.attention, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    jax.jit(mapped).lower(sharded, sharded, sharded)


def test_plugins_get_the_partitioner_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin, such as CUDA's, comes up with an XLA of its own, maybe long after we were imported."""
    registered: list[dict[str, Any]] = []
    waiting: list[Callable[..., None]] = []
    monkeypatch.setattr(partitioner, "_register", lambda **arguments: registered.append(arguments))
    monkeypatch.setattr(partitioner.xla_bridge, "register_plugin_callbacks", waiting.append)
    targets = [(direction, name) for targets in calls.TARGETS.values() for direction, name in targets.items()]
    partitioner.register(targets)
    assert [arguments["name"] for arguments in registered] == [name for _, name in targets]
    for callback in waiting:
        callback(c_api="the plugin's")
    assert [arguments.pop("c_api") for arguments in registered[len(targets) :]] == ["the plugin's"] * len(targets)
    assert registered[len(targets) :] == registered[: len(targets)]
