"""On a machine without a GPU: what a program for CUDA consists of, and that it can be exported."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_call
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stub import StubDriver

import jax_fa4

CUSTOM_CALLS = re.compile(r"custom_call @(\w+)")
# Views of the arrays, and the empty ones in the places of those that are absent: XLA makes no kernel of any of these.
FREE = {"module", "func", "return", "constant", "broadcast_in_dim", "custom_call"}


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.bfloat16)


def ints(*values: int) -> jax.Array:
    return jnp.asarray(values, jnp.int32)


QUERY, KEY, VALUE = normal(0, 2, 16, 4, 64), normal(1, 2, 24, 2, 64), normal(2, 2, 24, 2, 64)
SEGMENTS = {"query_segment_ids": jnp.ones((2, 16), jnp.int32), "key_value_segment_ids": jnp.ones((2, 24), jnp.int32)}
LENGTHS = {"query_seq_lengths": ints(16, 7), "key_value_seq_lengths": ints(3, 24)}
BOTTOM_RIGHT = {"is_causal": True, "causal_alignment": "bottom_right"}

# Options of a call, and the operations that it may have besides: on an offset of each batch element, or on the
# log-sum-exp, which is transposed only where it is asked for.
CALLS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "dense": ({}, set()),
    "causal": ({"is_causal": True}, set()),
    "bottom_right": (BOTTOM_RIGHT, {"subtract"}),
    "bottom_right_of_lengths": (BOTTOM_RIGHT | LENGTHS, {"subtract", "call", "convert", "maximum", "minimum"}),
    "window": ({"local_window_size": (3, 4)}, set()),
    "query_offset": ({"query_offset": ints(3, -4)}, set()),
    "one_query_offset": ({"query_offset": jnp.int32(3), "is_causal": True}, set()),
    "logits_soft_cap": ({"logits_soft_cap": 3.0}, set()),
    "sinks": ({"sinks": jnp.zeros(4, jnp.bfloat16)}, set()),
    "alibi_slopes": ({"alibi_slopes": jnp.ones(4)}, set()),
    "segment_ids": (SEGMENTS, set()),
    "seq_lengths": (LENGTHS, set()),
    "log_sum_exp": ({"return_residual": True}, {"transpose"}),
    "everything": (
        SEGMENTS | LENGTHS | {"is_causal": True, "sinks": jnp.zeros(4), "alibi_slopes": jnp.ones(4),
                              "logits_soft_cap": 3.0, "query_offset": ints(3, -4), "scale": 0.5},
        set(),
    ),
}  # fmt: skip


def attention(options: dict[str, Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The call as a function of all its arrays, and these."""
    arrays = {name: option for name, option in options.items() if isinstance(option, jax.Array)}
    static = {name: option for name, option in options.items() if name not in arrays}

    def call(query: Any, key: Any, value: Any, arrays: dict[str, Any]) -> Any:
        return jax_fa4.attention(query, key, value, **arrays, **static)

    return call, (QUERY, KEY, VALUE, arrays)


def cuda_text(call: Callable[..., Any], *arrays: Any) -> str:
    return str(jax.jit(call).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text())


def operations(text: str) -> set[str]:
    """Their names without the dialect."""
    return set(re.findall(r"^\s*(?:%\S+ = )?\"?(?:\w+\.)?(\w+)[\"\s(]", text, re.MULTILINE))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_one_custom_call_and_nothing_that_computes(every_kernel: Path, name: str) -> None:
    options, others = CALLS[name]
    call, arrays = attention(options)
    text = cuda_text(call, *arrays)
    assert CUSTOM_CALLS.findall(text) == ["jax_fa4_cuda_forward"]
    assert operations(text) == FREE | others


def test_the_list_of_operations_would_show_plain_jax(every_kernel: Path) -> None:
    call, arrays = attention({"implementation": "blockwise"})
    assert {"dot_general", "exponential", "reduce", "while"} <= operations(cuda_text(call, *arrays))


@pytest.mark.parametrize("heads", [1, 2])
def test_grouped_heads_are_not_repeated(every_kernel: Path, heads: int) -> None:
    text = cuda_text(jax_fa4.attention, QUERY, KEY[:, :, :heads], VALUE[:, :, :heads])
    assert operations(text) == FREE
    assert f"tensor<2x24x{heads}x64xbf16>" in re.findall(r"custom_call.*", text)[0]


@pytest.mark.parametrize(
    ("axes", "others"),
    [((0, 0, 0), set()), ((0, None, None), set()), ((None, 0, 0), set()), ((1, 2, 3), {"transpose"})],
    ids=str,
)
def test_vmap_adds_an_axis(every_kernel: Path, axes: tuple[int | None, ...], others: set[str]) -> None:
    arrays = [
        array if axis is None else jnp.stack([array] * 3, axis)
        for array, axis in zip((QUERY, KEY, VALUE), axes, strict=True)
    ]
    text = cuda_text(jax.vmap(jax_fa4.attention, axes), *arrays)
    assert CUSTOM_CALLS.findall(text) == ["jax_fa4_cuda_forward"]
    assert operations(text) == FREE | others
    shared = ["3" if axis is not None else "1" for axis in axes]
    (line,) = re.findall(r"custom_call.* : \((.*)\) -> ", text)
    assert re.findall(r"tensor<(\d)x2x", line) == shared


def test_calls_in_other_transformations(every_kernel: Path) -> None:
    def layer(query: Any) -> Any:
        return jax_fa4.attention(query, KEY, VALUE, is_causal=True)

    def scanned(query: Any) -> Any:
        return jax.lax.scan(lambda x, _: (layer(x), None), query, None, length=3)[0]

    for call in (jax.checkpoint(layer), jax.jit(layer), scanned):
        assert CUSTOM_CALLS.findall(cuda_text(call, QUERY)) == ["jax_fa4_cuda_forward"]


def test_gradients_have_one_call_of_the_kernel(every_kernel: Path) -> None:
    def gradients(cotangent: Any, *arrays: Any) -> Any:
        call = functools.partial(jax_fa4.attention, implementation=("cuda", "blockwise"))
        output, pullback = jax.vjp(call, *arrays)
        return output, pullback(cotangent)

    text = cuda_text(gradients, QUERY, QUERY, KEY, VALUE)
    assert CUSTOM_CALLS.findall(text) == ["jax_fa4_cuda_forward"]
    assert "dot_general" in operations(text)  # of blockwise, whose the gradients are


# --- Export ---


def exported(platforms: tuple[str, ...], options: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    """After a round trip through bytes."""
    call, arrays = attention(options)
    checks = jax_fa4.EXPORT_SAFETY_CHECKS
    made = jax.export.export(jax.jit(call), platforms=platforms, disabled_checks=checks)(*arrays)
    again = jax.export.deserialize(made.serialize())
    assert again.platforms == platforms
    return again, arrays


@pytest.mark.parametrize("name", ["dense", "everything"])
def test_export_for_cuda(every_kernel: Path, name: str) -> None:
    again, arrays = exported(("cuda",), CALLS[name][0])
    assert CUSTOM_CALLS.findall(again.mlir_module()) == ["jax_fa4_cuda_forward"]
    with pytest.raises(ValueError, match="for platforms '\\('cuda',\\)'"):
        again.call(*arrays)


@pytest.mark.parametrize("name", ["dense", "bottom_right_of_lengths", "everything"])
def test_export_for_cpu_and_cuda(every_kernel: Path, name: str) -> None:
    again, arrays = exported(("cpu", "cuda"), CALLS[name][0])
    assert sorted(CUSTOM_CALLS.findall(again.mlir_module())) == ["jax_fa4_cpu_forward", "jax_fa4_cuda_forward"]
    expected = attention(CALLS[name][0])[0](*arrays)
    assert np.abs(np.asarray(expected, np.float32)).max() > 0.1
    np.testing.assert_array_equal(np.asarray(again.call(*arrays)), np.asarray(expected))


def test_export_of_unknown_extents(every_kernel: Path) -> None:
    """No kernel is chosen before the program runs."""
    batch, queries, keys = jax.export.symbolic_shape("b, t, s")
    query = jax.ShapeDtypeStruct((batch, queries, 4, 64), jnp.bfloat16)
    key = jax.ShapeDtypeStruct((batch, keys, 2, 64), jnp.bfloat16)
    call = functools.partial(jax_fa4.attention, is_causal=True)
    checks = jax_fa4.EXPORT_SAFETY_CHECKS
    made = jax.export.export(jax.jit(call), platforms=("cpu", "cuda"), disabled_checks=checks)(query, key, key)
    again = jax.export.deserialize(made.serialize())
    assert "custom_call @jax_fa4_cuda_forward" in again.mlir_module()
    for length in (1, 24):
        arrays = (QUERY, KEY[:, :length], VALUE[:, :length])
        np.testing.assert_array_equal(np.asarray(again.call(*arrays)), np.asarray(call(*arrays)))


# --- One set of kernels ---


@pytest.mark.skipif(gpu_call.NO_COMPILER, reason="needs a C++ compiler")
def test_all_shapes_share_a_kernel(stub_driver: StubDriver) -> None:
    """Batch, lengths, heads and smaller head_dims are arguments of it."""
    stub_driver.reset(None)
    call = jax.jit(lambda query, key: jax_fa4.attention(query, key, key, implementation="sim"))
    for shape, key_shape in (
        ((1, 8, 1, 64), (1, 8, 1, 64)),
        ((3, 70, 6, 64), (3, 1, 2, 64)),
        ((2, 1, 8, 40), (2, 300, 1, 40)),
        ((2, 5, 8, 8), (2, 0, 8, 8)),
    ):
        jax.block_until_ready(call(jnp.zeros(shape, jnp.bfloat16), jnp.zeros(key_shape, jnp.bfloat16)))
    assert [launch.entry for launch in stub_driver.launches()] == ["dense_bfloat16_bfloat16_64_64_0_0"] * 4
    assert stub_driver.count("cuModuleLoadData") == 1
