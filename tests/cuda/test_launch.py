"""From jax_fa4.attention to a kernel's launch, with the simulator in the driver's place."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import echo
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4 import _ffi, calls
from jax_fa4.spec import AttentionSpec, Operands

LOG2_E = np.float32(1.4426950408889634)
Arrays = tuple[jax.Array, jax.Array, jax.Array]


def inputs(batch: int, queries: int, keys: int, heads: int, kv_heads: int, head_dim: int = 64) -> Arrays:
    rng = np.random.default_rng(queries * 1000 + keys)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)

    key, value = (array(batch, keys, kv_heads, head_dim) for _ in range(2))
    return array(batch, queries, heads, head_dim), key, value


def simulated(*arrays: Any, **options: Any) -> Any:
    return jax_fa4.attention(*arrays, implementation="sim", return_residual=True, **options)


def run(*arrays: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    output, log_sum_exp = jax.jit(lambda *given: simulated(*given, **options))(*arrays)
    return np.asarray(output), np.asarray(log_sum_exp)


def check_echo(arrays: Arrays, results: Any, scale: float) -> None:
    """Of arrays with one batch axis."""
    query, key = (np.asarray(array) for array in arrays[:2])
    output, log_sum_exp = (np.asarray(result) for result in results)
    np.testing.assert_array_equal(output, query)
    group = query.shape[2] // key.shape[2]
    first = np.repeat(key[:, 0, :, 0].astype(np.float32), group, axis=1)[:, None, :] if key.shape[1] else 0
    packed = group // min(group & -group, echo.ROWS)
    expected = np.broadcast_to(np.float32(scale) * LOG2_E + first + packed, log_sum_exp.shape)
    np.testing.assert_allclose(log_sum_exp, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("extents", "blocks"),
    [
        ((1, 64, 64, 1, 1), 1),
        ((2, 65, 3, 4, 2), 12),  # two heads share a tile
        ((3, 1, 200, 6, 1), 9),
        ((1, 9, 3, 64, 1), 9),  # as many as a tile has rows
        ((1, 3, 3, 128, 1), 6),
        ((2, 130, 64, 2, 2, 40), 12),  # columns beyond the head are zeros to the kernel, and not written
        ((1, 64, 64, 1, 1, 8), 1),
    ],
)
def test_extents_reach_the_kernel(
    simulated_driver: Any, echo_kernels: Path, extents: tuple[int, ...], blocks: int
) -> None:
    arrays = inputs(*extents)
    check_echo(arrays, run(*arrays, scale=0.5), 0.5)
    (launch,) = simulated_driver.take_launches()
    assert launch["kernel"] == "echo_0"
    assert launch["grid"] == (blocks, 1, 1)
    assert launch["block"] == (echo.THREADS, 1, 1)
    assert not launch["outcome"].reports


def test_persistent_kernels_have_a_block_per_multiprocessor(simulated_driver: Any, echo_kernels: Path) -> None:
    echo.write(echo_kernels, persistent=True)
    run(*inputs(1, 64, 64, 200, 200, 8))
    (launch,) = simulated_driver.take_launches()
    assert launch["grid"] == (148, 1, 1)


@pytest.mark.parametrize(
    ("axes", "launches"),
    [
        ((0, 0, 0), 1),
        ((1, 2, 0), 1),
        ((0, None, None), 3),  # keys that vmap shares: a launch for each element
        ((None, 0, 0), 3),
    ],
    ids=str,
)
def test_vmap(simulated_driver: Any, echo_kernels: Path, axes: tuple[int | None, ...], launches: int) -> None:
    one = inputs(2, 20, 10, 2, 1)
    stacks = [jnp.stack([array, array + 1, array * 2]) for array in one]
    given = [
        array if axis is None else jnp.moveaxis(stack, 0, axis)
        for axis, array, stack in zip(axes, one, stacks, strict=True)
    ]
    results = jax.jit(jax.vmap(lambda *arrays: simulated(*arrays, scale=1.0), axes))(*given)
    for i in range(3):
        picked = [array if axis is None else stack[i] for axis, array, stack in zip(axes, one, stacks, strict=True)]
        check_echo(tuple(picked), [result[i] for result in results], 1.0)
    assert len(simulated_driver.take_launches()) == launches


def test_a_batch_that_shares_keys(simulated_driver: Any, echo_kernels: Path) -> None:
    query, key, value = inputs(3, 20, 10, 2, 1)
    spec = AttentionSpec(scale=1.0, implementation=("sim",))
    operands = Operands(query[None], key[None, :1], value[None, :1])
    types = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in calls.forward_results(spec, operands)]
    call = jax.ffi.ffi_call(calls.TARGETS["sim"]["forward"], types)
    output, log_sum_exp = call(*calls.pack(operands), **calls.attributes(spec))
    shared = jnp.broadcast_to(key[:1], key.shape)
    check_echo((query, shared, shared), (output[0], jnp.swapaxes(log_sum_exp[0], 1, 2)), 1.0)
    assert len(simulated_driver.take_launches()) == 3


def test_arrays_may_be_one(simulated_driver: Any, echo_kernels: Path) -> None:
    array = inputs(1, 70, 70, 2, 2)[0]
    check_echo((array, array, array), run(array, array, array, scale=1.0), 1.0)


def test_calls_at_the_same_time_share_arrays(simulated_driver: Any, echo_kernels: Path) -> None:
    """The driver knows a place of memory once, whoever uses it."""
    arrays = inputs(1, 64, 64, 2, 2)
    call = jax.jit(lambda *given: simulated(*given, scale=1.0))
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                check_echo(arrays, call(*arrays), 1.0)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert len(simulated_driver.take_launches()) == 80


def test_two_calls_in_a_program(simulated_driver: Any, echo_kernels: Path) -> None:
    query, key, value = inputs(1, 64, 64, 2, 2)

    @jax.jit
    def twice(query: Any, key: Any, value: Any) -> Any:
        first, _ = simulated(query, key, value, scale=1.0)
        second, log_sum_exp = simulated(first + 1, key, value, scale=1.0)
        return second, log_sum_exp, query[:, 1:] * 2

    output, log_sum_exp, _ = twice(query, key, value)
    check_echo((query + 1, key, value), (output, log_sum_exp), 1.0)
    assert len(simulated_driver.take_launches()) == 2


@pytest.mark.parametrize("extents", [(0, 5, 5, 2, 2), (2, 0, 5, 2, 2)], ids=["batch", "queries"])
def test_empty_results_launch_nothing(simulated_driver: Any, echo_kernels: Path, extents: tuple[int, ...]) -> None:
    simulated_driver.must_launch = False
    output, log_sum_exp = run(*inputs(*extents))
    assert output.shape == (*extents[:2], 2, 64)
    assert log_sum_exp.shape == (*extents[:2], 2)


def test_no_keys(simulated_driver: Any, echo_kernels: Path) -> None:
    """The kernel runs, with maps of keys that are not there."""
    arrays = inputs(2, 5, 0, 4, 2)
    check_echo(arrays, run(*arrays, scale=1.0), 1.0)
    assert len(simulated_driver.take_launches()) == 1


# --- What cannot be launched says so ---

# JAX raises INVALID_ARGUMENT as ValueError and the other codes as JaxRuntimeError.
FAILED = (jax.errors.JaxRuntimeError, ValueError, NotImplementedError)


def expect(words: str, *arrays: Any) -> None:
    with pytest.raises(FAILED, match=re.escape(words)):
        jax.block_until_ready(run(*(arrays or inputs(1, 8, 8, 1, 1))))


def test_no_driver_is_named(echo_kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_FA4_CUDA_DRIVER", raising=False)
    expect("on a driver that JAX_FA4_CUDA_DRIVER names, and it names none")


def test_a_driver_that_cannot_be_loaded(echo_kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_FA4_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    expect("JAX_FA4_CUDA_DRIVER=/nowhere/libcuda.so.1: cannot be loaded: /nowhere/libcuda.so.1: cannot open")


def test_a_library_that_is_no_driver(echo_kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_FA4_CUDA_DRIVER", _ffi.__file__)
    expect("has no cuInit, cuDriverGetVersion")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "sm_90a"}, "no kernel runs on NVIDIA B200 (simulated) (sm_100); this build has kernels for sm_90a"),
        ({"minimum_driver": 99000}, "echo needs a driver of CUDA 99.0 or newer; this one is CUDA "),
        ({"entry": "other"}, "finding other in echo failed: CUDA_ERROR_NOT_FOUND (500"),
        ({"shared_bytes": 1 << 20}, "giving echo 1048576 bytes of shared memory failed: CUDA_ERROR_INVALID_VALUE (1"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_kernels_that_do_not_fit(
    simulated_driver: Any, echo_kernels: Path, changes: dict[str, Any], words: str
) -> None:
    simulated_driver.must_launch = False
    echo.write(echo_kernels, **changes)
    expect(words)


def test_a_kernel_that_fails(simulated_driver: Any, echo_kernels: Path) -> None:
    echo.write(echo_kernels, broken=True)
    expect("on NVIDIA B200 (simulated) failed: CUDA_ERROR_ILLEGAL_ADDRESS (700")
    (launch,) = simulated_driver.take_launches()
    assert launch["status"] == 700


def test_a_launch_that_is_refused(simulated_driver: Any, echo_kernels: Path) -> None:
    echo.write(echo_kernels, threads=32)
    expect("launching echo (1 blocks of 32 threads) on NVIDIA B200 (simulated) failed: CUDA_ERROR_INVALID_VALUE (1")
    assert [launch["status"] for launch in simulated_driver.take_launches()] == [1]


def test_after_a_reset_of_the_driver(simulated_driver: Any, echo_kernels: Path) -> None:
    """Nothing of the old context is used again."""
    arrays = inputs(1, 8, 8, 1, 1)
    run(*arrays)
    simulated_driver.driver.reset()
    check_echo(arrays, run(*arrays, scale=1.0), 1.0)
