"""jit, vmap, checkpoint, scan, higher derivatives, export: one rule each, against the plain reference or one by one."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from running import kernel_calls

import jax_fa4

Arrays = dict[str, Any]

T, S, N, K, H, HV = 9, 13, 4, 2, 8, 5
OPTIONS: dict[str, Any] = {"is_causal": True, "causal_alignment": "bottom_right", "logits_soft_cap": 2.0}


def arrays(batch: tuple[int, ...] = (2,), dtype: Any = jnp.float32, seed: int = 0) -> Arrays:
    """Every operand of a call; key lengths leave a row empty."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return jnp.asarray(generator.standard_normal((*batch, *shape)), dtype)

    return {
        "query": normal(T, N, H),
        "key": normal(S, K, H),
        "value": normal(S, K, HV),
        "bias": normal(N, T, S),
        "mask": jnp.asarray(generator.random((*batch, 1, T, S)) < 0.8),
        "sinks": jnp.asarray(generator.standard_normal(N), dtype),
        "alibi_slopes": jnp.asarray(0.5 ** np.arange(1, N + 1), dtype),
        "query_segment_ids": jnp.asarray(np.sort(generator.integers(0, 2, (*batch, T))), jnp.int32),
        "key_value_segment_ids": jnp.asarray(np.sort(generator.integers(0, 2, (*batch, S))), jnp.int32),
        "key_value_seq_lengths": jnp.asarray(generator.integers(S - 4, S + 1, batch), jnp.int32),
    }


def call(arrays: Arrays, implementation: Any = None, **options: Any) -> Any:
    return jax_fa4.attention(**arrays, **{**OPTIONS, **options}, return_residual=True, implementation=implementation)


def loss(differentiable: Arrays, others: Arrays, implementation: Any = None, **options: Any) -> Any:
    """A scalar that depends on every entry of output and log-sum-exp."""
    output, log_sum_exp = call({**differentiable, **others}, implementation, **options)
    finite = jnp.where(jnp.isfinite(log_sum_exp), log_sum_exp, 0)
    return jnp.sum(jnp.sin(output.astype(jnp.float32))) + jnp.sum(jnp.cos(finite))


def split(arrays: Arrays) -> tuple[Arrays, Arrays]:
    floats = {name: array for name, array in arrays.items() if jnp.issubdtype(array.dtype, jnp.floating)}
    return floats, {name: array for name, array in arrays.items() if name not in floats}


def assert_trees_close(actual: Any, expected: Any, dtype: Any = jnp.float32) -> None:
    """Two float32 evaluations of the same thing: a few roundings of the largest entry apart."""
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        finite = np.isfinite(other)
        np.testing.assert_array_equal(np.isfinite(one), finite)
        scale = np.max(np.abs(other[finite]), initial=1.0)
        np.testing.assert_allclose(one[finite], other[finite], rtol=0, atol=32 * float(jnp.finfo(dtype).eps) * scale)


def stacked(function: Callable[..., Any], mapped: set[str], given: Arrays, size: int) -> Any:
    """What vmap means: the function of each slice, results stacked."""
    results = [
        function({name: array[i] if name in mapped else array for name, array in given.items()}) for i in range(size)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def mapped_arrays(mapped: set[str], size: int) -> Arrays:
    """Arrays of which those named have a leading axis of `size`, different along it."""
    variants = [arrays(seed=seed) for seed in range(size)]
    return {
        name: jnp.stack([variant[name] for variant in variants]) if name in mapped else array
        for name, array in variants[0].items()
    }


EVERYTHING = set(arrays())
SUBSETS = [
    {"query"},
    {"key", "value"},
    {"query", "bias"},
    {"query", "key", "value"},
    {"sinks", "alibi_slopes"},
    {"mask", "key_value_seq_lengths"},
    {"query_segment_ids", "key_value_segment_ids", "bias"},
    EVERYTHING,
]


@pytest.mark.slow
@pytest.mark.parametrize("mapped", SUBSETS, ids=lambda mapped: "-".join(sorted(mapped)) if len(mapped) < 9 else "all")
def test_vmap_of_results_and_gradients_over_any_operands(mapped: set[str]) -> None:
    given = mapped_arrays(mapped, 3)
    floats, others = split(given)
    axes = {name: 0 if name in mapped else None for name in given}

    def gradients(given: Arrays) -> Any:
        floats, others = split(given)
        return jax.grad(loss)(floats, others)

    both = jax.jit(lambda given: (call(given), gradients(given)))
    actual = jax.jit(jax.vmap(lambda given: (call(given), gradients(given)), in_axes=(axes,)))(given)
    assert_trees_close(actual, stacked(both, mapped, given, 3))

    # grad of vmap: gradients of shared operands are sums over the mapped axis.
    float_axes, other_axes = ({name: axes[name] for name in part} for part in (floats, others))
    total = jax.jit(jax.grad(lambda floats: jax.vmap(loss, in_axes=(float_axes, other_axes))(floats, others).sum()))
    summed = {name: array if name in mapped else array.sum(0) for name, array in actual[1].items()}
    assert_trees_close(total(floats), summed)


@pytest.mark.parametrize("inner, outer", [({"query"}, {"key", "value"}), ({"bias"}, {"query", "sinks"})])
def test_nested_vmap_over_different_operands(inner: set[str], outer: set[str]) -> None:
    given = {
        **arrays(),
        **{name: array for name, array in mapped_arrays(inner, 2).items() if name in inner},
        **{name: array for name, array in mapped_arrays(outer, 3).items() if name in outer},
    }

    def mapped(function: Callable[..., Any]) -> Callable[..., Any]:
        one = jax.vmap(function, in_axes=({name: 0 if name in inner else None for name in given},))
        return jax.vmap(one, in_axes=({name: 0 if name in outer else None for name in given},))

    def gradients(given: Arrays) -> Any:
        floats, others = split(given)
        return call(given), jax.grad(loss)(floats, others)

    expected = stacked(lambda part: stacked(jax.jit(gradients), inner, part, 2), outer, given, 3)
    assert_trees_close(jax.jit(mapped(gradients))(given), expected)


@pytest.mark.parametrize("mapped", [{"query"}, {"key", "value"}, {"bias"}], ids=lambda mapped: "-".join(sorted(mapped)))
def test_vmap_copies_nothing(mapped: set[str]) -> None:
    """Temporary memory of a mapped call is less than the smallest operand: none is broadcast or moved for it."""
    shapes = {"query": (2, 128, 4, 64), "key": (2, 128, 4, 64), "value": (2, 128, 4, 64), "bias": (1, 4, 128, 128)}
    given = {name: jnp.ones((5, *shape) if name in mapped else shape) for name, shape in shapes.items()}
    axes = {name: 0 if name in mapped else None for name in given}
    compiled = jax.jit(jax.vmap(lambda given: jax_fa4.attention(**given), in_axes=(axes,))).lower(given).compile()
    assert kernel_calls(compiled) == {"jax_fa4_cpu_forward": 1}
    log_sum_exp_bytes = 5 * 2 * 128 * 4 * 4  # a result that is not asked for is a temporary
    assert compiled.memory_analysis().temp_size_in_bytes <= log_sum_exp_bytes + 4096


@pytest.mark.parametrize("in_axis, out_axis", [(1, 0), (-1, 2)])
def test_vmap_axes_other_than_the_first(in_axis: int, out_axis: int) -> None:
    query, key, value = (jnp.stack([arrays(seed=i)[name] for i in range(3)]) for name in ("query", "key", "value"))
    mapped = jax.vmap(jax_fa4.attention, in_axes=(in_axis, 0, None), out_axes=out_axis)
    actual = mapped(jnp.moveaxis(query, 0, in_axis), key, value[0])
    expected = jnp.stack([jax_fa4.attention(query[i], key[i], value[0]) for i in range(3)])
    np.testing.assert_array_equal(jnp.moveaxis(actual, out_axis, 0), expected)


def test_jit_grad_vjp_and_value_and_grad_agree() -> None:
    floats, others = split(arrays())
    value, gradients = jax.jit(jax.value_and_grad(loss))(floats, others)
    eager_value, eager = jax.value_and_grad(loss)(floats, others)
    _, pullback = jax.vjp(functools.partial(loss, others=others), floats)
    assert_trees_close((value, gradients), (eager_value, eager))
    assert_trees_close(gradients, pullback(jnp.float32(1))[0])
    assert_trees_close(
        gradients, jax.jit(jax.grad(functools.partial(loss, implementation="reference")))(floats, others)
    )


def block(parameters: Any, x: Any) -> Any:
    heads = jax_fa4.attention(*(jnp.einsum("btd,dnh->btnh", x, parameters[name]) for name in "qkv"), is_causal=True)
    return x + jnp.einsum("btnh,nhd->btd", jnp.sin(heads), parameters["o"])


def block_inputs() -> tuple[Any, Any]:
    keys = jax.random.split(jax.random.key(0), 5)
    parameters = {name: jax.random.normal(key, (16, 2, 8)) / 4 for name, key in zip("qkv", keys, strict=False)}
    return parameters | {"o": jax.random.normal(keys[3], (2, 8, 16)) / 4}, jax.random.normal(keys[4], (2, 9, 16))


@pytest.mark.parametrize("policy, forward_calls", [("names", 1), ("nothing", 2)])
def test_checkpoint_names_save_the_kernel_a_second_run(policy: str, forward_calls: int) -> None:
    policies = {
        "names": jax.checkpoint_policies.save_only_these_names(*jax_fa4.CHECKPOINT_NAMES),
        "nothing": jax.checkpoint_policies.nothing_saveable,
    }
    parameters, x = block_inputs()

    def gradient(function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.grad(lambda parameters, x: jnp.sum(jnp.cos(function(parameters, x))))

    rematerialised = jax.jit(gradient(jax.checkpoint(block, policy=policies[policy])))
    # Counted before XLA, which may merge equal calls where nothing is gained by their separation.
    assert rematerialised.lower(parameters, x).as_text().count("@jax_fa4_cpu_forward(") == forward_calls
    assert_trees_close(rematerialised(parameters, x), gradient(block)(parameters, x))


def test_scan_over_layers() -> None:
    parameters, x = block_inputs()
    layers = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 0.5, -leaf]), parameters)

    def scanned(layers: Any, x: Any) -> Any:
        return jnp.sum(jax.lax.scan(lambda x, layer: (jax.checkpoint(block)(layer, x), None), x, layers)[0] ** 2)

    def unrolled(layers: Any, x: Any) -> Any:
        for i in range(3):
            x = block(jax.tree.map(lambda leaf, i=i: leaf[i], layers), x)
        return jnp.sum(x**2)

    assert_trees_close(jax.jit(jax.grad(scanned))(layers, x), jax.jit(jax.grad(unrolled))(layers, x))


@pytest.mark.slow
@pytest.mark.parametrize("implementation", [None, ("cuda", "blockwise")])
def test_jacobian_in_reverse_mode_maps_cotangents_alone(implementation: Any) -> None:
    floats, others = split(arrays())

    def rows(floats: Arrays, implementation: Any) -> Any:
        output, log_sum_exp = call({**floats, **others}, implementation)
        return output[0, :2, 0], jnp.where(jnp.isfinite(log_sum_exp), log_sum_exp, 0)[0, :2, 0]

    actual, expected = (
        jax.jit(jax.jacrev(functools.partial(rows, implementation=i)))(floats) for i in (implementation, "reference")
    )
    assert_trees_close(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("query", "key", "value"), ("query", "bias", "sinks", "alibi_slopes")])
def test_second_order_in_reverse_mode(names: tuple[str, ...]) -> None:
    with jax.enable_x64(True):
        given = arrays(dtype=jnp.float64)
        asked = {name: given.pop(name) for name in names}

        def both(asked: Arrays) -> Any:
            output, log_sum_exp = call({**asked, **given})
            return output, jnp.where(jnp.isfinite(log_sum_exp), log_sum_exp, 0)

        check_grads(jax.jit(both), (asked,), order=2, modes=["rev"])


@pytest.mark.slow
def test_second_order_equals_the_reference() -> None:
    floats, others = split(arrays())

    def penalty(implementation: Any) -> Callable[..., Any]:
        gradient = jax.grad(functools.partial(loss, implementation=implementation))
        return jax.jit(jax.grad(lambda floats: sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient(floats, others)))))

    assert_trees_close(penalty(None)(floats), penalty("reference")(floats))


@pytest.mark.slow
def test_vmap_of_second_order() -> None:
    floats, others = split(arrays())
    batch = {name: jnp.stack([array, array * 0.5]) for name, array in floats.items()}

    def penalty(floats: Arrays) -> Any:
        return jnp.sum(jax.grad(loss)(floats, others)["query"] ** 2)

    expected = [jax.grad(penalty)({name: array[i] for name, array in batch.items()}) for i in range(2)]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected)
    assert_trees_close(jax.jit(jax.vmap(jax.grad(penalty)))(batch), expected)


def test_integer_operands_have_no_gradient() -> None:
    given = arrays()
    gradient = jax.grad(lambda given: loss(*split(given)), allow_int=True)(given)
    assert gradient["query_segment_ids"].dtype == jax.dtypes.float0


def test_donated_buffers() -> None:
    given = arrays()
    expected = jax.jit(call)(given)
    donated = jax.tree.map(jnp.array, given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # XLA says which of them it could not reuse
        actual = jax.jit(call, donate_argnums=0)(donated)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("batch", [0, 1])
def test_empty_and_single_batches(batch: int) -> None:
    given = {
        name: array[:batch] if name not in ("sinks", "alibi_slopes") else array for name, array in arrays().items()
    }
    floats, others = split(given)
    output, log_sum_exp = jax.jit(call)(given)
    assert output.shape == (batch, T, N, HV) and log_sum_exp.shape == (batch, T, N)
    gradients = jax.jit(jax.grad(loss))(floats, others)
    assert {name: g.shape for name, g in gradients.items()} == {name: a.shape for name, a in floats.items()}
    if not batch:
        assert not np.any(gradients["sinks"]) and not np.any(gradients["alibi_slopes"])


def test_vmap_of_size_zero() -> None:
    query, key, value = (arrays()[name] for name in ("query", "key", "value"))
    assert jax.vmap(jax_fa4.attention, in_axes=(0, None, None))(query[None][:0], key, value).shape == (0, 2, T, N, HV)


@pytest.mark.parametrize("features", ["plain", "everything"])
def test_export_round_trip_with_a_symbolic_batch(features: str) -> None:
    given = arrays() if features == "everything" else {n: arrays()[n] for n in ("query", "key", "value")}
    (b,) = jax.export.symbolic_shape("b")
    shared = ("sinks", "alibi_slopes")
    symbolic = {
        name: jax.ShapeDtypeStruct(array.shape if name in shared else (b, *array.shape[1:]), array.dtype)
        for name, array in given.items()
    }

    def both(given: Arrays) -> Any:
        floats, others = split(given)
        return call(given), jax.grad(loss)(floats, others)

    exported = jax.export.export(jax.jit(both), platforms=["cpu"], disabled_checks=jax_fa4.EXPORT_SAFETY_CHECKS)(
        symbolic
    )
    loaded = jax.export.deserialize(exported.serialize())
    larger = {name: array if name in shared else jnp.concatenate([array] * 3) for name, array in given.items()}
    for arguments in (given, larger):
        assert_trees_close(loaded.call(arguments), jax.jit(both)(arguments))


def test_export_of_gradients_of_an_exported_call() -> None:
    given = {name: arrays()[name] for name in ("query", "key", "value")}
    exported = jax.export.export(jax.jit(call), disabled_checks=jax_fa4.EXPORT_SAFETY_CHECKS)(given)
    loaded = jax.export.deserialize(exported.serialize(vjp_order=1))
    expected = jax.grad(lambda given: call(given)[0].sum())(given)
    assert_trees_close(jax.grad(lambda given: loaded.call(given)[0].sum())(given), expected)


def test_checks_of_export_are_needed() -> None:
    """The published list is what makes export work, or this test would not raise without it."""
    given = {name: arrays()[name] for name in ("query", "key", "value")}
    with pytest.raises(ValueError, match="jax_fa4_cpu_forward"):
        jax.export.export(jax.jit(call))(given)


def test_several_platforms_in_one_tuple() -> None:
    """On the CPU the first that can run is taken, with one custom call; for CUDA the same tuple lowers to blockwise."""
    given = {name: arrays()[name] for name in ("query", "key", "value")}
    function = functools.partial(call, implementation=("cpu", "blockwise"))
    assert kernel_calls(jax.jit(function).lower(given).compile()) == {"jax_fa4_cpu_forward": 1}
    for_cuda = jax.jit(function).trace(given).lower(lowering_platforms=("cuda",)).as_text()
    assert "jax_fa4_cpu" not in for_cuda and "stablehlo.dot_general" in for_cuda
    with pytest.raises(NotImplementedError, match="blockwise"):
        jax.jit(call).trace(given).lower(lowering_platforms=("cuda",))
    with pytest.raises(NotImplementedError, match="tpu"):
        jax.jit(call).trace(given).lower(lowering_platforms=("tpu",))
