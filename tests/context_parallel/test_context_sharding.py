"""Meshes and manual axes: sums of gradients of what is replicated, several axes, collectives by bytes, memory."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traffic
import whole
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jax_fa4
from jax_fa4 import context_parallel

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import context_parallel_model as model

B, T, N, K, H = 2, 64, 4, 2, 8
Arrays = dict[str, Any]


def arrays() -> Arrays:
    keys = jax.random.split(jax.random.key(0), 4)
    return {
        "query": jax.random.normal(keys[0], (B, T, N, H)),
        "key": jax.random.normal(keys[1], (B, T, K, H)),
        "value": jax.random.normal(keys[2], (B, T, K, H)),
        "sinks": jax.random.normal(keys[3], (N,)),
        "alibi_slopes": 0.5 ** jnp.arange(1.0, N + 1),
    }


@functools.cache
def one_device(**options: Any) -> Any:
    """Loss and gradients."""
    call = functools.partial(jax_fa4.attention, return_residual=True, is_causal=True, **options)
    return jax.jit(jax.value_and_grad(lambda given: whole.loss_of(*call(**given))))(arrays())


SPECS = {name: P(None, "context") if name in ("query", "key", "value") else P() for name in arrays()}


def local_loss(given: Arrays, **options: Any) -> Any:
    """Of a device's part of a zigzag layout; sinks and slopes are replicated."""
    call = functools.partial(context_parallel.attention, axis_name="context", layout="zigzag", is_causal=True)
    return whole.loss_of(*call(**given, return_residual=True, **options))


def in_zigzag(given: Arrays, back: bool = False) -> Arrays:
    move = context_parallel.from_layout if back else context_parallel.to_layout
    return {name: move(array, 4) if array.ndim > 1 else array for name, array in given.items()}


@pytest.mark.slow
@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("strategy", ["ring", "all_gather", "ulysses"])
def test_gradients_outside_shard_map(strategy: Any, check_vma: bool) -> None:
    loss = jax.shard_map(
        lambda given: lax.psum(local_loss(given, strategy=strategy), "context"),
        mesh=whole.mesh(4), in_specs=(SPECS,), out_specs=P(), check_vma=check_vma,
    )  # fmt: skip
    compiled = jax.jit(jax.value_and_grad(lambda given: loss(in_zigzag(given)))).lower(arrays()).compile()
    whole.assert_kernels(compiled)
    whole.assert_close(compiled(arrays()), one_device())


@pytest.mark.parametrize("check_vma", [True, False])
def test_gradients_inside_shard_map(check_vma: bool) -> None:
    """Under check_vma JAX sums those of replicated operands, else whoever maps does."""

    @functools.partial(jax.shard_map, mesh=whole.mesh(4), in_specs=(SPECS,), out_specs=SPECS, check_vma=check_vma)
    def gradients(given: Arrays) -> Any:
        found = jax.grad(functools.partial(local_loss, strategy="all_gather"))(given)
        if not check_vma:
            found |= {name: lax.psum(found[name], "context") for name in ("sinks", "alibi_slopes")}
        return found

    found = jax.jit(lambda given: in_zigzag(gradients(in_zigzag(given)), back=True))(arrays())
    whole.assert_close(found, one_device()[1])


def value_and_gradients(devices: Any, **options: Any) -> Callable[[Arrays], Any]:
    call = whole.attention(devices, is_causal=True, **options)
    return jax.jit(jax.value_and_grad(lambda given: whole.loss_of(*call(**given))))


MESHES: dict[str, tuple[tuple[int, ...], tuple[str, ...], dict[str, Any]]] = {
    "batch_heads_context": (
        (2, 2, 2), ("data", "model", "context"), {"batch_axis_name": "data", "head_axis_name": "model"},
    ),
    "two_axes": ((2, 4), ("node", "gpu"), {"axis_name": ("node", "gpu")}),
    "two_axes_and_a_window": (
        (4, 2), ("node", "gpu"), {"axis_name": ("node", "gpu"), "local_window_size": (9, None), "layout": "zigzag"},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "names", "options"), MESHES.values(), ids=MESHES)
def test_ring_on_larger_meshes(sizes: Any, names: Any, options: Any) -> None:
    window = {name: value for name, value in options.items() if name == "local_window_size"}
    found = value_and_gradients(whole.mesh(*sizes, names=names), **options)(arrays())
    whole.assert_close(found, one_device(**window))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["all_gather", "ulysses"])
def test_other_strategies_on_larger_meshes(strategy: str) -> None:
    devices = whole.mesh(2, 2, 2, names=("data", "node", "gpu"))
    options = {"axis_name": ("node", "gpu"), "batch_axis_name": "data", "layout": "zigzag", "strategy": strategy}
    whole.assert_close(value_and_gradients(devices, **options)(arrays()), one_device())


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_arrays_that_lie_on_the_mesh(kind: AxisType) -> None:
    """Where activations lie as the call wants them, attention moves keys, values and their gradients only."""
    devices = whole.mesh(2, 4, names=("data", "context"), kind=kind)
    given = {name: array for name, array in arrays().items() if array.ndim > 1}
    placed = jax.device_put(given, NamedSharding(devices, P("data", "context")))
    call = functools.partial(
        context_parallel.sharded_attention, axis_name="context", batch_axis_name="data", is_causal=True
    )
    with jax.set_mesh(devices):
        compiled = jax.jit(jax.grad(lambda given: jnp.sum(jnp.sin(call(**given))))).lower(placed).compile()
        found = compiled(placed)
    expected = jax.grad(lambda given: jnp.sum(jnp.sin(jax_fa4.attention(**given, is_causal=True))))(given)
    whole.assert_close(found, expected)
    assert set(traffic.bytes_by_kind(compiled)) == {"collective-permute"}
    assert all(found[name].sharding.is_equivalent_to(placed[name].sharding, 4) for name in given)


@functools.cache
def compiled_program(devices: int, length: int, *, gradients: bool, **options: Any) -> Any:
    """Query, key and value of a batch of one lie on the mesh as they are wanted."""
    on_mesh = whole.mesh(devices)
    shape, place = (1, length, 8, 16), NamedSharding(on_mesh, P(None, "context"))
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)] * 3
    call = functools.partial(context_parallel.sharded_attention, mesh=on_mesh, axis_name="context", **options)
    # Not a sum: with a constant cotangent XLA may leave out what the test counts.
    run = jax.grad(lambda *given: jnp.sum(jnp.sin(call(*given))), (0, 1, 2)) if gradients else call
    return jax.jit(run).lower(*inputs).compile()


DEVICES = 8
LONG = 2048  # what is planned for a program of this length is its arrays, not padding


def pair(length: int) -> int:
    """Bytes of keys and values of a device, or of their gradients, as benchmarks/context_parallel_model.py counts."""
    call = model.Call(length, DEVICES, query_heads=8, key_heads=8, head_dim=16)
    return call.keys_bytes(call.part, model.SINGLE)


PAIR, LONG_PAIR = pair(T), pair(LONG)


def test_bytes_of_a_ring() -> None:
    """Forward: keys and values once around. Backward: again, and their gradients once around and home."""
    forward = compiled_program(DEVICES, LONG, gradients=False, layout="zigzag", is_causal=True)
    around = (DEVICES - 1) * LONG_PAIR
    assert traffic.bytes_by_kind(forward) == {"collective-permute": around}
    both = compiled_program(DEVICES, LONG, gradients=True, layout="zigzag", is_causal=True)
    # XLA's CPU backend drops optimization barriers: there the backward pass finds its first block arrived.
    again = around - LONG_PAIR
    assert traffic.bytes_by_kind(both) == {"collective-permute": around + again + DEVICES * LONG_PAIR}


def test_bytes_of_a_ring_with_a_window() -> None:
    """Contiguous: only from the neighbours that it reaches, and gradients home in one hop."""
    program = compiled_program(DEVICES, T, gradients=False, is_causal=True, local_window_size=(9, None))
    assert traffic.bytes_by_kind(program) == {"collective-permute": 2 * PAIR}
    # Both ways: to both neighbours, by way of one of them.
    program = compiled_program(DEVICES, T, gradients=False, local_window_size=8)
    assert traffic.bytes_by_kind(program) == {"collective-permute": 2 * PAIR}
    program = compiled_program(DEVICES, T, gradients=True, is_causal=True, local_window_size=(8, None))
    assert traffic.bytes_by_kind(program) == {"collective-permute": (1 + 2) * PAIR}


def test_bytes_of_all_gather() -> None:
    program = compiled_program(DEVICES, T, gradients=True, strategy="all_gather", layout="zigzag", is_causal=True)
    # The second gather is the first one's on the CPU; see above.
    assert traffic.bytes_by_kind(program) == {"all-gather": DEVICES * PAIR, "reduce-scatter": PAIR}


def test_bytes_of_ulysses() -> None:
    program = compiled_program(DEVICES, T, gradients=True, strategy="ulysses", layout="zigzag", is_causal=True)
    assert traffic.bytes_by_kind(program) == {"all-to-all": 4 * PAIR}


@pytest.mark.parametrize("strategy", ["ring", "all_gather"])
def test_backward_pass_gathers_anew(strategy: Any) -> None:
    """Before XLA's own passes: the gradient's blocks come from behind a barrier that waits for the cotangents."""
    query = jnp.zeros((1, T, 8, 16))
    call = whole.attention(whole.mesh(DEVICES), strategy=strategy)
    traced = jax.jit(jax.grad(lambda *given: jnp.sum(call(query=given[0], key=given[1], value=given[2])[0]), (0, 1, 2)))
    text = traced.lower(query, query, query).as_text()
    collective = {"ring": "stablehlo.collective_permute", "all_gather": '"stablehlo.all_gather"'}[strategy]
    before, after = text.split("stablehlo.optimization_barrier")
    assert collective in before and collective in after


@pytest.mark.parametrize("strategy", ["ring", "ulysses"])
def test_memory_falls_with_devices(strategy: str) -> None:
    """Temporaries of a device, forward and backward, are a few of its parts: half for twice the devices."""
    planned = {}
    for devices in (4, 8):
        strategy_of = {} if strategy == "ring" else {"strategy": strategy}
        program = compiled_program(devices, LONG, gradients=True, layout="zigzag", is_causal=True, **strategy_of)
        planned[devices] = program.memory_analysis().temp_size_in_bytes
    padding = 8192
    assert planned[8] <= planned[4] / 2 + padding, planned
    part = LONG_PAIR // 2
    # Blocks and their gradients, held and on their way, partial sums, results of the calls.
    assert planned[8] <= 20 * part, planned


def test_remat_keeps_results() -> None:
    """A block that saves jax_fa4.CHECKPOINT_NAMES runs no forward kernel twice. Counted before XLA drops barriers."""
    given = tuple(arrays()[name] for name in ("query", "key", "value"))
    call = functools.partial(
        context_parallel.sharded_attention, mesh=whole.mesh(2), axis_name="context", strategy="all_gather"
    )
    policy = jax.checkpoint_policies.save_only_these_names(*jax_fa4.CHECKPOINT_NAMES)
    block = jax.checkpoint(lambda *given: jnp.sin(call(*given)), policy=policy)
    text = jax.jit(jax.grad(lambda *given: jnp.sum(jnp.cos(block(*given))), (0, 1, 2))).lower(*given).as_text()
    assert text.count("@jax_fa4_cpu_forward(") == text.count("@jax_fa4_cpu_backward(") == 1


@pytest.mark.parametrize("implementation", ["reference", pytest.param(("cuda", "blockwise"), marks=pytest.mark.slow)])
def test_other_implementations(implementation: Any) -> None:
    """Their share of a gradient is of the whole sequence's output and log-sum-exp too."""
    found = value_and_gradients(whole.mesh(2), implementation=implementation)(arrays())
    whole.assert_close(found, one_device())


@pytest.mark.parametrize("strategy", ["ring", "all_gather"])
def test_extreme_integers_do_not_wrap_around(strategy: str) -> None:
    """Lengths far out of range are clamped; from the ends of int32 on a query sees all keys, or none."""
    low, high = -(2**31), 2**31 - 1
    given = {name: array for name, array in arrays().items() if array.ndim > 1}
    given["key_value_seq_lengths"] = jnp.asarray([high, low], jnp.int32)
    given["query_offset"] = jnp.asarray([high, low], jnp.int32)
    found = jax.jit(whole.attention(whole.mesh(2), strategy=strategy, is_causal=True, layout="zigzag"))
    expected = jax.jit(functools.partial(jax_fa4.attention, return_residual=True, is_causal=True))(**given)
    for one, other in zip(found(**given), expected, strict=True):
        whole.assert_close(one[:1], other[:1])
        np.testing.assert_array_equal(one[1:], other[1:])


def test_vmap_inside_shard_map() -> None:
    given = {name: array for name, array in arrays().items() if array.ndim > 1}

    @functools.partial(jax.shard_map, mesh=whole.mesh(2), in_specs=P(None, "context"), out_specs=P(None, "context"))
    def mapped(given: Arrays) -> Any:
        call = functools.partial(context_parallel.attention, axis_name="context", is_causal=True)
        return jax.vmap(jax.grad(lambda one: jnp.sum(jnp.sin(call(**one)))))(given)

    expected = jax.grad(lambda given: jnp.sum(jnp.sin(jax_fa4.attention(**given, is_causal=True))))(given)
    whole.assert_close(jax.jit(mapped)(given), expected)


def test_what_has_no_derivative() -> None:
    given = arrays()["query"]
    call = functools.partial(context_parallel.sharded_attention, mesh=whole.mesh(2), axis_name="context")

    def loss(query: Any) -> Any:
        return jnp.sum(call(query, query, query) ** 2)

    with pytest.raises(NotImplementedError, match=r"context_parallel.attention.*forward-mode derivatives"):
        jax.jit(lambda query: jax.jvp(loss, (query,), (query,))).lower(given)
    with pytest.raises(NotImplementedError, match=r"context_parallel.attention has first derivatives only"):
        jax.jit(jax.grad(lambda query: jnp.sum(jax.grad(loss)(query) ** 2))).lower(given)
