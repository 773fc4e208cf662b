"""Auto, Explicit and partly manual meshes: what one device computes, and no collective but sums of gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerance
from hlo import collective_bytes
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from running import DIFFERENTIABLE, kernel_calls

import jax_fa4

P = PartitionSpec
Arrays = dict[str, Any]

B, T, S, N, H = 4, 12, 16, 8, 8
KERNELS = {"jax_fa4_cpu_backward": 2, "jax_fa4_cpu_forward": 1}
AXIS_TYPES = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
# The control: what XLA makes of the same mathematics in plain jnp.
PLAIN = functools.partial(jax_fa4.attention, implementation="reference")

# Batch over "data", heads over "model"; every operand follows.
SHARDED: dict[str, Any] = {
    "query": P("data", None, "model"),
    "key": P("data", None, "model"),
    "value": P("data", None, "model"),
    "bias": P("data", "model"),
    "sinks": P("model"),
    "alibi_slopes": P("model"),
    "query_segment_ids": P("data"),
    "key_value_segment_ids": P("data"),
    "query_seq_lengths": P("data"),
    "key_value_seq_lengths": P("data"),
    "query_offset": P("data"),
}
# Sinks and slopes have no batch: their gradients are sums over it, of each device's own heads.
PARAMETERS = 2 * N // 2 * 4


class Case(NamedTuple):
    """A call, where its operands lie, and bytes of collectives; None are those of the control in an Auto mesh.

    `typed` are those that an Explicit mesh adds, where a gradient must lie as its operand does.
    """

    key_heads: int = 2
    bias: tuple[int, int] = (B, N)
    moved: dict[str, Any] = {}  # noqa: RUF012
    mesh: tuple[int, int] = (4, 2)
    expected: dict[str, int] | None = None
    typed: dict[str, int] = {}  # noqa: RUF012

    def specs(self) -> dict[str, Any]:
        return {**SHARDED, **self.moved}


WHOLE_HEADS = {"key": P("data"), "value": P("data")}
CASES = {
    "all_sharded": Case(expected={"all-reduce": PARAMETERS}),
    "bias_of_all_batches": Case(
        bias=(1, N), moved={"bias": P(None, "model")}, expected={"all-reduce": PARAMETERS + N // 2 * T * S * 4}
    ),
    "one_key_head": Case(
        key_heads=1,
        bias=(1, 1),
        moved={**WHOLE_HEADS, "bias": P()},
        expected={"all-reduce": PARAMETERS + T * S * 4 + 2 * B // 4 * S * H * 4},
    ),
    "more_shards_than_key_heads": Case(moved=WHOLE_HEADS, mesh=(2, 4)),
    "sinks_over_the_batch's_axis": Case(moved={"sinks": P("data"), "alibi_slopes": P()}, typed={"all-gather": N * 4}),
}


@functools.cache
def arrays(key_heads: int = 2, bias: tuple[int, int] = (B, N)) -> Arrays:
    """Every operand but a mask."""
    keys = iter(jax.random.split(jax.random.key(0), 8))
    return {
        "query": jax.random.normal(next(keys), (B, T, N, H)),
        "key": jax.random.normal(next(keys), (B, S, key_heads, H)),
        "value": jax.random.normal(next(keys), (B, S, key_heads, H)),
        "bias": jax.random.normal(next(keys), (*bias, T, S)),
        "sinks": jax.random.normal(next(keys), (N,)),
        "alibi_slopes": jnp.linspace(0.1, 0.5, N),
        "query_segment_ids": jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32) // 6, (B, T)),
        "key_value_segment_ids": jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32) // 6, (B, S)),
        "query_seq_lengths": jnp.asarray([T, T, 7, T], jnp.int32),
        "key_value_seq_lengths": jnp.asarray([S, S - 3, 9, S], jnp.int32),
        "query_offset": jnp.asarray([0, 1, 4, 2], jnp.int32),
    }


def loss_and_gradients(attention: Callable[..., Any], given: Arrays) -> Any:
    """Of a loss that depends on output and log-sum-exp."""

    def loss(floats: Arrays) -> Any:
        output, log_sum_exp = attention(**{**given, **floats}, is_causal=True, return_residual=True)
        return jnp.sum(jnp.sin(output)) + jnp.sum(jnp.where(jnp.isfinite(log_sum_exp), log_sum_exp, 0) ** 2)

    return jax.value_and_grad(loss)({name: array for name, array in given.items() if name in DIFFERENTIABLE})


@functools.cache
def one_device(key_heads: int, bias: tuple[int, int]) -> Any:
    return jax.jit(functools.partial(loss_and_gradients, jax_fa4.attention))(arrays(key_heads, bias))


def placed(given: Arrays, mesh: Mesh, specs: dict[str, Any]) -> Arrays:
    return {name: jax.device_put(array, NamedSharding(mesh, specs[name])) for name, array in given.items()}


def compiled_in(mesh: Mesh, attention: Callable[..., Any], given: Arrays) -> Any:
    with jax.set_mesh(mesh):
        return jax.jit(functools.partial(loss_and_gradients, attention)).lower(given).compile()


def assert_close(actual: Any, expected: Any) -> None:
    """Sums of float32 in two orders: a few roundings of the largest entry apart, nowhere near a factor of 2."""

    def check(one: Any, other: Any) -> None:
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(np.max(np.abs(other))))

    jax.tree.map(check, actual, expected)


@pytest.mark.slow
@AXIS_TYPES
@pytest.mark.parametrize("name", CASES)
def test_gradients_in_a_mesh(name: str, axis_type: AxisType) -> None:
    case = CASES[name]
    given = arrays(case.key_heads, case.bias)
    mesh = jax.make_mesh(case.mesh, ("data", "model"), axis_types=(axis_type,) * 2)
    compiled = compiled_in(mesh, jax_fa4.attention, placed(given, mesh, case.specs()))
    assert kernel_calls(compiled) == KERNELS
    actual = compiled(placed(given, mesh, case.specs()))
    assert_close(actual, one_device(case.key_heads, case.bias))

    expected = case.expected
    if expected is None:
        auto = jax.make_mesh(case.mesh, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
        expected = collective_bytes(compiled_in(auto, PLAIN, placed(given, auto, case.specs())))
    if axis_type == AxisType.Explicit:
        expected = {kind: size + case.typed.get(kind, 0) for kind, size in expected.items()}
    assert collective_bytes(compiled) == expected
    if axis_type == AxisType.Explicit:
        for name, gradient in actual[1].items():
            spec = case.specs()[name]
            assert gradient.sharding.spec == P(*spec, *(None,) * (gradient.ndim - len(spec))), name


@AXIS_TYPES
def test_types_and_shards_of_results(axis_type: AxisType) -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    given = {name: arrays()[name] for name in ("query", "key", "value")}
    with jax.set_mesh(mesh):
        call = jax.jit(functools.partial(jax_fa4.attention, return_residual=True))
        results = call(**placed(given, mesh, SHARDED))
    for result in results:
        assert result.sharding.shard_shape(result.shape)[:3] == (B // 4, T, N // 2)
        if axis_type == AxisType.Explicit:
            assert jax.typeof(result).sharding.spec[:3] == ("data", None, "model")


def partly_manual(manual: str, specs: dict[str, Any], attention: Callable[..., Any]) -> Callable[..., Any]:
    """The call inside a shard_map over one axis of the mesh, the others being left to the partitioner."""
    own = {name: P(*(axis if axis == manual else None for axis in spec)) for name, spec in specs.items()}

    def call(is_causal: bool, return_residual: bool, **given: Any) -> Any:
        inner = functools.partial(attention, is_causal=is_causal, return_residual=return_residual)
        mapped = jax.shard_map(
            lambda given: inner(**given), in_specs=(own,), out_specs=(own["query"],) * 2, axis_names={manual}
        )
        return mapped(given)

    return call


PARTLY: dict[str, tuple[tuple[str, ...], str]] = {
    # Two axes of equal size are left, in either order: XLA numbers their devices as it likes.
    "idle_axis": (("idle", "data", "model"), "idle"),
    "idle_axis_between": (("model", "idle", "data"), "idle"),
    "batch": (("data", "idle", "model"), "data"),
}


@pytest.mark.parametrize("name", PARTLY)
def test_gradients_in_a_partly_manual_region(name: str) -> None:
    """One key head, one bias for all: their gradients are summed over axes that the region leaves to XLA."""
    names, manual = PARTLY[name]
    given = arrays(1, (1, 1))
    specs = {**SHARDED, **WHOLE_HEADS, "bias": P(), "sinks": P(), "alibi_slopes": P()}
    order = [3, 1, 2, 0, 7, 4, 5, 6]  # devices need not be in order
    mesh = Mesh(np.asarray(jax.devices())[order].reshape(2, 2, 2), names, axis_types=(AxisType.Auto,) * 3)
    compiled = compiled_in(mesh, partly_manual(manual, specs, jax_fa4.attention), placed(given, mesh, specs))
    assert kernel_calls(compiled) == KERNELS
    assert_close(compiled(placed(given, mesh, specs)), one_device(1, (1, 1)))
    control = compiled_in(mesh, partly_manual(manual, specs, PLAIN), placed(given, mesh, specs))
    assert collective_bytes(compiled).keys() == {"all-reduce"}
    assert collective_bytes(compiled)["all-reduce"] <= collective_bytes(control)["all-reduce"]


@pytest.mark.parametrize("idle", [AxisType.Auto, AxisType.Explicit], ids=["mixed", "explicit"])
def test_partly_manual_region_of_an_explicit_mesh(idle: AxisType) -> None:
    """There JAX itself gathers what enters and leaves the region; we add nothing."""
    given = arrays(1, (1, 1))
    specs = {**SHARDED, **WHOLE_HEADS, "bias": P(), "sinks": P(), "alibi_slopes": P()}
    types = (AxisType.Explicit, idle, AxisType.Explicit)
    mesh = jax.make_mesh((2, 2, 2), ("data", "idle", "model"), axis_types=types)
    ours, control = (
        compiled_in(mesh, partly_manual("data", specs, attention), placed(given, mesh, specs))
        for attention in (jax_fa4.attention, PLAIN)
    )
    assert_close(ours(placed(given, mesh, specs)), one_device(1, (1, 1)))
    assert sum(collective_bytes(ours).values()) <= sum(collective_bytes(control).values())


@AXIS_TYPES
def test_vmap_with_spmd_axis_name(axis_type: AxisType) -> None:
    """The mapped axis over "data", heads over "model", keys and sinks shared by what is mapped."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    query = jax.random.normal(jax.random.key(0), (4, 3, T, N, H))
    key, sinks = arrays(1)["key"][:3], arrays()["sinks"]
    specs = {"query": P("data", None, None, "model"), "key": P(), "sinks": P("model")}

    def loss(given: Arrays, **options: Any) -> Any:
        call = functools.partial(jax_fa4.attention, key=given["key"], value=given["key"], sinks=given["sinks"])
        return jnp.sum(jnp.sin(jax.vmap(call, **options)(given["query"])))

    given = {"query": query, "key": key, "sinks": sinks}
    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(functools.partial(loss, spmd_axis_name="data")))
        compiled = gradient.lower(placed(given, mesh, specs)).compile()
        actual = compiled(placed(given, mesh, specs))
    assert_close(actual, jax.jit(jax.grad(loss))(given))
    # A device sums over its heads; keys and values are the same array, whose gradients are added after the sums.
    of_key, of_sinks = 3 * S * H * 4, N // 2 * 4
    found = collective_bytes(compiled)
    assert found.keys() == {"all-reduce"} and of_key + of_sinks <= found["all-reduce"] <= 4 * of_key + of_sinks


def test_vmap_with_spmd_axis_name_over_shard_map() -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    query, sinks = jax.random.normal(jax.random.key(0), (4, 1, T, N, H)), arrays()["sinks"]
    heads = P(None, None, "model")

    def attention(query: Any, sinks: Any) -> Any:
        return jax_fa4.attention(query, query, query, sinks=sinks)

    with jax.set_mesh(mesh):
        mapped = jax.shard_map(attention, in_specs=(heads, P("model")), out_specs=heads)
        call = jax.jit(jax.vmap(mapped, in_axes=(0, None), spmd_axis_name="data"))
        given = jax.device_put(query, NamedSharding(mesh, P("data", None, None, "model")))
        compiled = call.lower(given, sinks).compile()
        assert_close(compiled(given, sinks), jax.vmap(attention, in_axes=(0, None))(query, sinks))
    assert not collective_bytes(compiled)


@pytest.mark.slow
@AXIS_TYPES
@pytest.mark.parametrize("implementation", ["blockwise", "reference"])
def test_other_implementations(axis_type: AxisType, implementation: str) -> None:
    names = ("query", "key", "value", "bias", "sinks")
    given = {name: array for name, array in arrays().items() if name in names}
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    attention = functools.partial(jax_fa4.attention, implementation=implementation)
    actual = compiled_in(mesh, attention, placed(given, mesh, SHARDED))(placed(given, mesh, SHARDED))
    assert_close(actual, jax.jit(functools.partial(loss_and_gradients, jax_fa4.attention))(given))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "query_length": ({"query": P("data", "model")}, "query has its query length .* jax_fa4.context_parallel"),
    "key_length": (
        {"query": P("data"), "key": P("data", "model"), "value": P("data", "model")},
        "key has its key length .* jax_fa4.context_parallel",
    ),
    "segment_ids": (
        {"query": P("data"), "key": P("data"), "value": P("data"), "key_value_segment_ids": P("data", "model")},
        "key_value_segment_ids has its key length .* jax_fa4.context_parallel",
    ),
    "head_dim": ({name: P("data", None, None, "model") for name in ("query", "key")}, "query has its head_dim"),
}


@AXIS_TYPES
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_is_refused(name: str, axis_type: AxisType) -> None:
    """Silently gathered it would defeat whoever sharded it: words, in an Auto mesh from the compiler, else earlier."""
    specs, words = REFUSED[name]
    names = ("query", "key", "value", "query_segment_ids", "key_value_segment_ids")
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    given = placed({name: arrays()[name] for name in names}, mesh, {**SHARDED, **specs})
    error = ValueError if axis_type == AxisType.Explicit else jax.errors.JaxRuntimeError
    with jax.set_mesh(mesh), pytest.raises(error, match=words):
        jax.jit(jax_fa4.attention).lower(**given).compile()


@AXIS_TYPES
def test_heads_that_do_not_fit_are_refused(axis_type: AxisType) -> None:
    """Three query heads of a shard over one and a half groups: no kernel could tell which key head is whose."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    key = jnp.ones((B, S, 3, H))
    given = placed({"query": jnp.ones((B, T, 6, H)), "key": key, "value": key}, mesh, {**SHARDED, **WHOLE_HEADS})
    error = ValueError if axis_type == AxisType.Explicit else jax.errors.JaxRuntimeError
    with jax.set_mesh(mesh), pytest.raises(error, match="6 query heads over 3"):
        jax.jit(jax_fa4.attention).lower(**given).compile()


@AXIS_TYPES
def test_a_length_is_gathered_where_that_is_asked_for(axis_type: AxisType) -> None:
    """What the error advises; the output goes back over the length, which nobody needs to gather for."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    place = jax.reshard if axis_type == AxisType.Explicit else jax.lax.with_sharding_constraint

    def call(query: Any, key: Any, value: Any) -> Any:
        return place(jax_fa4.attention(*(place(array, P("data")) for array in (query, key, value))), P("data", "model"))

    given = {name: arrays()[name] for name in ("query", "key", "value")}
    with jax.set_mesh(mesh):
        over_length = placed(given, mesh, dict.fromkeys(given, P("data", "model")))
        compiled = jax.jit(call).lower(**over_length).compile()
        actual = compiled(**over_length)
    assert_close(actual, jax_fa4.attention(**given))
    gathered = B // 4 * (T * N + 2 * S * 2) * H * 4
    assert collective_bytes(compiled) == {"all-gather": gathered}


def test_contradicting_shardings_of_an_explicit_mesh() -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    given = {name: arrays()[name] for name in ("query", "key", "value")}
    specs = {"query": P("data", None, "model"), "key": P("model"), "value": P("data")}
    with (
        jax.set_mesh(mesh),
        pytest.raises(ValueError, match=r"key is sharded over mesh axes \('model',\).*jax.reshard"),
    ):
        jax.eval_shape(jax_fa4.attention, *placed(given, mesh, specs).values())


def test_sums_over_devices_are_float32() -> None:
    """Of bfloat16 gradients too: eight shards of heads share one key head, whose gradients are rounded once."""
    keys = jax.random.split(jax.random.key(1), 4)
    shapes = {"query": (1, T, N, H), "key": (1, S, 1, H), "value": (1, S, 1, H)}
    given = {
        name: jax.random.normal(key, shape).astype(jnp.bfloat16)
        for key, (name, shape) in zip(keys, shapes.items(), strict=False)
    }
    cotangent = jax.random.normal(keys[3], shapes["query"]).astype(jnp.bfloat16)
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    specs = {"query": P(None, None, "model"), "key": P(), "value": P()}

    def gradients(given: Arrays, cotangent: Any) -> Any:
        return jax.vjp(lambda given: jax_fa4.attention(**given, is_causal=True), given)[1](cotangent)[0]

    compiled = jax.jit(gradients).lower(placed(given, mesh, specs), cotangent).compile()
    assert collective_bytes(compiled) == {"all-reduce": 2 * S * H * 4}
    found = {name: np.asarray(array) for name, array in compiled(placed(given, mesh, specs), cotangent).items()}
    inputs = {name: np.asarray(array) for name, array in given.items()}
    tolerance.assert_backward(inputs, {"is_causal": True}, np.asarray(cotangent), None, found)
    # The same sum in another order, rounded once: nearly all entries are those of one device.
    alone = jax.jit(gradients)(given, cotangent)
    for name in ("key", "value"):
        assert np.mean(found[name] == np.asarray(alone[name])) > 0.95
