"""shard_map and pmap: results and gradients equal one device's, with no collective but sums of replicated gradients.

Other meshes: test_regimes.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hlo import collective_bytes, collectives
from jax.sharding import Mesh, PartitionSpec
from running import kernel_calls

import jax_fa4

P = PartitionSpec
Arrays = dict[str, Any]

B, T, S, N, K, H = 4, 12, 16, 4, 2, 8


def mesh() -> Mesh:
    return Mesh(np.asarray(jax.devices()[:8]).reshape(4, 2), ("data", "model"))


def arrays(replicated: tuple[str, ...] = ()) -> Arrays:
    """Every float operand, and key lengths."""
    keys = iter(jax.random.split(jax.random.key(0), 8))
    batch = {name: 1 if name in replicated else B for name in ("key", "value", "bias")}
    return {
        "query": jax.random.normal(next(keys), (B, T, N, H)),
        "key": jax.random.normal(next(keys), (B, S, K, H)),
        "value": jax.random.normal(next(keys), (B, S, K, H)),
        "bias": jax.random.normal(next(keys), (batch["bias"], N, T, S)),
        "sinks": jax.random.normal(next(keys), (N,)),
        "alibi_slopes": jnp.asarray([0.5, 0.25, 0.125, 0.0625]),
        "key_value_seq_lengths": jnp.asarray([S, S - 3, 5, S], jnp.int32),
    }


# How each operand lies on the mesh: batch over "data", heads over "model".
SHARDED: dict[str, Any] = {
    "query": P("data", None, "model"),
    "key": P("data", None, "model"),
    "value": P("data", None, "model"),
    "bias": P("data", "model"),
    "sinks": P("model"),
    "alibi_slopes": P("model"),
    "key_value_seq_lengths": P("data"),
}
REPLICATED_PARAMETERS = {**SHARDED, "bias": P(None, "model"), "sinks": P(), "alibi_slopes": P()}
SHARDED_GRADIENTS = {name: spec for name, spec in REPLICATED_PARAMETERS.items() if name != "key_value_seq_lengths"}


def local(given: Arrays) -> Any:
    """On one device's shards: sinks and slopes that are replicated over heads are cut to this device's heads."""
    given = dict(given)
    heads = given["query"].shape[2]
    for name in ("sinks", "alibi_slopes"):
        if given[name].shape[0] != heads:
            start = jax.lax.axis_index("model") * heads
            given[name] = jax.lax.dynamic_slice_in_dim(given[name], start, heads)
    return jax_fa4.attention(**given, is_causal=True, return_residual=True)


def loss_of(output: Any, log_sum_exp: Any) -> Any:
    return jnp.sum(jnp.sin(output)) + jnp.sum(jnp.where(jnp.isfinite(log_sum_exp), log_sum_exp, 0) ** 2)


def one_device(given: Arrays) -> Any:
    """Loss and gradients without a mesh."""
    floats = {name: array for name, array in given.items() if name != "key_value_seq_lengths"}
    lengths = given["key_value_seq_lengths"]

    def loss(floats: Arrays) -> Any:
        return loss_of(
            *jax_fa4.attention(**floats, key_value_seq_lengths=lengths, is_causal=True, return_residual=True)
        )

    return jax.jit(jax.value_and_grad(loss))(floats)


def mapped_gradients(specs: dict[str, Any], check_vma: bool) -> Callable[..., Any]:
    """Loss and gradients taken outside shard_map, of a loss summed inside."""

    @functools.partial(jax.shard_map, mesh=mesh(), in_specs=(specs,), out_specs=P(), check_vma=check_vma)
    def loss(given: Arrays) -> Any:
        return jax.lax.psum(loss_of(*local(given)), ("data", "model"))

    def run(given: Arrays) -> Any:
        floats = {name: array for name, array in given.items() if name != "key_value_seq_lengths"}
        lengths = given["key_value_seq_lengths"]
        return jax.value_and_grad(lambda floats: loss({**floats, "key_value_seq_lengths": lengths}))(floats)

    return run


def assert_close(actual: Any, expected: Any) -> None:
    """Sums of float32 in two orders: a few roundings of the largest entry apart, nowhere near a factor of 2."""

    def check(one: Any, other: Any) -> None:
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(np.max(np.abs(other))))

    jax.tree.map(check, actual, expected)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("specs", [SHARDED, REPLICATED_PARAMETERS], ids=["all_sharded", "replicated_parameters"])
def test_gradients_through_shard_map(specs: dict[str, Any], check_vma: bool) -> None:
    given = arrays(replicated=("bias",) if specs is REPLICATED_PARAMETERS else ())
    compiled = jax.jit(mapped_gradients(specs, check_vma)).lower(given).compile()
    assert kernel_calls(compiled) == {"jax_fa4_cpu_backward": 2, "jax_fa4_cpu_forward": 1}
    assert_close(compiled(given), one_device(given))

    expected = {}
    if specs is REPLICATED_PARAMETERS:
        bias = N // 2 * T * S * 4
        sinks_and_slopes = 2 * N * 4
        expected = {"all-reduce": bias + sinks_and_slopes}
    assert collective_bytes(compiled) == expected, collectives(compiled)


@pytest.mark.parametrize("check_vma", [True, False])
def test_gradients_of_replicated_keys_and_values(check_vma: bool) -> None:
    """Queries of all batch elements read one key and value: typed wrongly, their gradients would be 4x too large."""
    given = {name: arrays()[name] for name in ("query", "key", "value")}
    given |= {name: given[name][:1] for name in ("key", "value")}
    specs = {"query": P("data"), "key": P(), "value": P()}

    def loss(given: Arrays) -> Any:
        shared = {
            name: jnp.broadcast_to(given[name], (given["query"].shape[0], *given[name].shape[1:]))
            for name in ("key", "value")
        }
        return jnp.sum(jnp.sin(jax_fa4.attention(given["query"], **shared, is_causal=True)))

    devices = Mesh(np.asarray(jax.devices()[:4]), ("data",))
    mapped = jax.shard_map(
        lambda given: jax.lax.psum(loss(given), "data"), mesh=devices, in_specs=(specs,), out_specs=P(),
        check_vma=check_vma,
    )  # fmt: skip
    compiled = jax.jit(jax.grad(mapped)).lower(given).compile()
    assert_close(compiled(given), jax.jit(jax.grad(loss))(given))
    assert collective_bytes(compiled) == {"all-reduce": 2 * S * K * H * 4}


@pytest.mark.parametrize("check_vma", [True, False])
def test_gradients_inside_shard_map(check_vma: bool) -> None:
    """grad in the mapped function: under check_vma JAX sums those of replicated operands, else whoever maps does."""

    @functools.partial(
        jax.shard_map, mesh=mesh(), in_specs=(REPLICATED_PARAMETERS,), out_specs=SHARDED_GRADIENTS, check_vma=check_vma
    )
    def gradients(given: Arrays) -> Any:
        floats = {name: array for name, array in given.items() if name != "key_value_seq_lengths"}
        lengths = given["key_value_seq_lengths"]
        found = jax.grad(lambda floats: loss_of(*local({**floats, "key_value_seq_lengths": lengths})))(floats)
        if not check_vma:
            replicated = {"bias": ("data",), "sinks": ("data", "model"), "alibi_slopes": ("data", "model")}
            found |= {name: jax.lax.psum(found[name], axes) for name, axes in replicated.items()}
        return found

    given = arrays(replicated=("bias",))
    assert_close(jax.jit(gradients)(given), one_device(given)[1])


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["blockwise", "reference", ("cuda", "blockwise")])
def test_other_implementations_inside_shard_map(implementation: Any) -> None:
    given = tuple(arrays()[name] for name in ("query", "key", "value"))
    specs = P("data", None, "model")
    call = functools.partial(jax_fa4.attention, is_causal=True, implementation=implementation)

    def both(call: Callable[..., Any]) -> Any:
        results, pullback = jax.vjp(call, *given)
        return results, pullback(jnp.cos(results))

    expected = both(functools.partial(jax_fa4.attention, is_causal=True))
    assert_close(both(jax.jit(jax.shard_map(call, mesh=mesh(), in_specs=specs, out_specs=specs))), expected)


def test_scan_inside_shard_map() -> None:
    given = {name: arrays()[name] for name in ("query", "key", "value")}

    def steps(query: Any, key: Any, value: Any) -> Any:
        return jax.lax.scan(lambda q, _: (jax_fa4.attention(q, key, value), None), query, length=3)[0]

    mapped = jax.shard_map(steps, mesh=mesh(), in_specs=(P("data"), P("data"), P("data")), out_specs=P("data"))
    assert_close(jax.jit(mapped)(*given.values()), steps(**given))


def test_pmap() -> None:
    given = {name: jnp.stack([arrays()[name] * factor for factor in (1.0, 0.5)]) for name in ("query", "key", "value")}

    def gradient(query: Any, key: Any, value: Any) -> Any:
        return jax.grad(lambda q, k, v: jnp.sum(jax_fa4.attention(q, k, v) ** 2), argnums=(0, 1, 2))(query, key, value)

    mapped = jax.pmap(gradient, devices=jax.devices()[:2])
    assert_close(mapped(*given.values()), jax.vmap(gradient)(*given.values()))
    compiled = mapped.lower(*given.values()).compile()
    assert kernel_calls(compiled) == {"jax_fa4_cpu_backward": 1, "jax_fa4_cpu_forward": 1}
    assert not collectives(compiled)


def train_step(attention: Callable[..., Any], parameters: Any, x: Any) -> Any:
    def loss(parameters: Any) -> Any:
        heads = attention(*(jnp.einsum("btd,dnh->btnh", x, parameters[name]) for name in "qkv"), is_causal=True)
        y = jax.lax.psum(jnp.einsum("btnh,nhd->btd", heads, parameters["o"]), "model")
        return jnp.sum(y**2)

    gradients = jax.grad(loss)(parameters)
    return jax.tree.map(lambda p, g: p - 0.01 * g, parameters, gradients)


def test_train_step_has_no_collective_around_attention() -> None:
    """Batch and heads sharded: parameters' gradients are summed over "data", activations over "model", nothing else."""
    width = 16
    parameters = {name: jnp.ones((width, N, H)) / 8 for name in "qkv"} | {"o": jnp.ones((N, H, width)) / 8}
    x = jax.random.normal(jax.random.key(1), (B, T, width))
    specs = {name: P(None, "model") for name in "qkv"} | {"o": P("model")}

    def compiled(attention: Callable[..., Any]) -> Any:
        step = jax.shard_map(
            functools.partial(train_step, attention), mesh=mesh(), in_specs=(specs, P("data")), out_specs=specs
        )
        return jax.jit(step).lower(parameters, x).compile()

    ours, control = compiled(jax_fa4.attention), compiled(jax.nn.dot_product_attention)
    assert set(collective_bytes(ours)) == {"all-reduce"}
    gradient_bytes = 4 * width * N // 2 * H * 4
    activation_bytes = B // 4 * T * width * 4
    assert collective_bytes(ours)["all-reduce"] <= gradient_bytes + 2 * activation_bytes
    assert collective_bytes(ours) == collective_bytes(control)
    assert_close(ours(parameters, x), control(parameters, x))
