"""The whole forward table on the GPU, through jax.jit: right results, one launch of one of our kernels each."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import running
import tolerance
from cases import Case
from devices import Device, on_host
from forward_table import FEATURES, GROUPS, HEADS, KINDS, PLAIN, SIZES, VARIANTS, grouped, of_head_dims, of_size

import jax_fa4
from jax_fa4 import manifest

PREFIX = "jax_fa4_forward_"


def check(case: Case, device: Device) -> str:
    """Runs the case; it was one launch, and its results are right. Returns the kernel's name."""
    arrays = device.put(case.arrays())
    run = running.compiled_call(
        lambda arrays: device.attention(**arrays, **case.arguments()), arrays, calls={device.target: 1}
    )
    poison(case, device)
    output, log_sum_exp = jax.block_until_ready(run(arrays))
    tolerance.assert_forward(on_host(arrays), case.arguments(), np.asarray(output), np.asarray(log_sum_exp))
    (launch,) = device.watch.launches()
    assert launch.kernel.startswith(PREFIX)
    return launch.kernel


def poison(case: Case, device: Device) -> None:
    """Leaves NaN in memory of the results' sizes, which the pool gives out next: what is not written shows."""
    shape = (case.batch, case.query_length, case.query_heads)
    value_dim = case.value_head_dim or case.head_dim
    for extents, dtype in (((*shape, value_dim), case.array_dtype), (shape, np.float32)):
        jax.block_until_ready(device.put(np.full(extents, np.nan, dtype)))


@pytest.mark.gpu
@pytest.mark.parametrize("case", FEATURES.values(), ids=FEATURES)
def test_features(case: Case, gpu: Device) -> None:
    check(case, gpu)


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{sizes[0]}x{sizes[1]}")
@pytest.mark.parametrize("kind", KINDS)
def test_sizes(kind: str, sizes: tuple[int, int], gpu: Device) -> None:
    check(of_size(kind, sizes), gpu)


@pytest.mark.gpu
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("is_causal", [False, True])
def test_grouped_heads(group: int, is_causal: bool, gpu: Device) -> None:
    check(grouped(group, is_causal), gpu)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_head_dims(heads: tuple[int, int], dtype: str, gpu: Device) -> None:
    check(of_head_dims(dtype, heads), gpu)


@pytest.mark.gpu
def test_every_head_dim_of_the_manifest(gpu: Device) -> None:
    """An architecture may have more than the table."""
    rows = {(row.dtype, row.head_dim, row.value_head_dim) for row in manifest.variants()}
    assert rows
    for dtype, *heads in sorted(rows):
        gpu.watch.reset()
        check(dataclasses.replace(of_head_dims(dtype, (heads[0], heads[1])), query_length=300), gpu)


@pytest.mark.parametrize(("case", "kind"), VARIANTS)
def test_the_variant_with_fewest_features_is_taken(case: Case, kind: str, device: Device) -> None:
    assert f"_{kind}" in check(case, device)


def test_vmap_over_queries_of_shared_keys(device: Device) -> None:
    """Nothing is copied: the second query of each entry may be another launch on the same keys, sinks and lengths."""
    case = dataclasses.replace(PLAIN, sinks=True, lengths="both", batch=3)
    arrays = case.arrays()
    queries = np.stack([arrays.pop("query"), case.arrays()["query"] * 2])
    run = jax.jit(jax.vmap(lambda query, arrays: device.attention(query=query, **arrays), (0, None)))
    output, log_sum_exp = run(*device.put((queries, arrays)))
    for i in range(2):
        inputs = on_host(arrays | {"query": queries[i]})
        tolerance.assert_forward(inputs, {}, np.asarray(output[i]), np.asarray(log_sum_exp[i]))
    assert 1 <= len(device.watch.launches()) <= 2 * case.batch


def test_gradients_through_blockwise(device: Device) -> None:
    """The forward kernel, and a backward pass in plain JAX, which the caller has to name."""
    arrays = device.put(PLAIN.arrays())

    def loss(implementation: Any, arrays: Any) -> Any:
        return jnp.sum(jax_fa4.attention(**arrays, implementation=implementation).astype(jnp.float32) ** 2)

    def gradients(implementation: Any) -> Any:
        return jax.jit(jax.grad(functools.partial(loss, implementation)))(arrays)

    found, wanted = gradients((device.implementation, "blockwise")), gradients("blockwise")
    assert device.watch.launches()
    for name in arrays:
        ours, theirs = (np.asarray(tree[name], np.float64) for tree in (found, wanted))
        assert np.linalg.norm(ours - theirs) <= 0.02 * np.linalg.norm(theirs)
