"""Memory is linear in the sequence lengths: what XLA plans for a program, and what a process that runs it takes."""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import gc
import itertools
import multiprocessing
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import running

import jax_fa4

HEADS, HEAD_DIM = 8, 64
QUERY_KEY_VALUE = (0, 1, 2)
BIAS = 3
KERNELS = {"jax_fa4_cpu_backward": 1, "jax_fa4_cpu_forward": 1}
# XLA pads each buffer; a table of them and a few scalars are all that two programs' plans may differ by.
PADDING = 4096

# What else a process may touch while it is measured. A quadratic term shows from 1.3 bytes for each pair of query and
# key on at the lengths of the quick test, from 0.05 on at those of the slow one; the logits of one head are 4.
NOISE = 8 * 2**20


def gradients_of(implementation: str, length: int, *, is_causal: bool, of: tuple[int, ...] = QUERY_KEY_VALUE) -> Any:
    """Compiled forward and backward, T = S = length: a function of query, key and value, and bias if `of` has it."""

    def loss(*inputs: Any) -> Any:
        if implementation == "jax.nn":
            return jnp.sum(jax.nn.dot_product_attention(*inputs, is_causal=is_causal, implementation="xla"))
        return jnp.sum(jax_fa4.attention(*inputs, is_causal=is_causal, implementation=implementation))

    inputs = [jax.ShapeDtypeStruct((1, length, HEADS, HEAD_DIM), jnp.float32)] * 3
    if BIAS in of:
        inputs.append(jax.ShapeDtypeStruct((1, HEADS, length, length), jnp.float32))
    return jax.jit(jax.grad(loss, of)).lower(*inputs).compile()


def temporaries(compiled: Any) -> int:
    """Bytes that XLA plans for neither arguments nor results."""
    return int(compiled.memory_analysis().temp_size_in_bytes)


@functools.cache
def temporaries_of_jax_nn(length: int) -> int:
    return temporaries(gradients_of("jax.nn", length, is_causal=True))


@pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "full"])
def test_planned_memory_is_linear(is_causal: bool) -> None:
    lengths = (1024, 2048, 4096, 8192, 16384)
    compiled = [gradients_of("cpu", length, is_causal=is_causal) for length in lengths]
    assert all(running.kernel_calls(program) == KERNELS for program in compiled)
    planned = [temporaries(program) for program in compiled]
    for half, whole in itertools.pairwise(planned):
        assert whole <= 2 * half + PADDING, dict(zip(lengths, planned, strict=True))


def test_planned_memory_beside_jax_nn() -> None:
    ours = temporaries(gradients_of("cpu", 8192, is_causal=True))
    assert ours < temporaries_of_jax_nn(8192) / 20


class TestBias:
    """Its gradient is T x S if the bias is: nothing else may be."""

    SHAPES = ((1, HEADS, 1024, 1024), (1, 1, 1024, 1024), (1, HEADS, 1, 1024))

    @staticmethod
    def compiled(shape: tuple[int, ...], of: tuple[int, ...]) -> Any:
        operand = jax.ShapeDtypeStruct((1, 1024, HEADS, HEAD_DIM), jnp.float32)
        bias = jax.ShapeDtypeStruct(shape, jnp.float32)
        loss = jax.grad(lambda *inputs: jnp.sum(jax_fa4.attention(*inputs, implementation="cpu")), of)
        return jax.jit(loss).lower(operand, operand, operand, bias).compile()

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_gradient_is_its_own_size(self, shape: tuple[int, ...]) -> None:
        without = self.compiled(shape, QUERY_KEY_VALUE)
        with_bias = self.compiled(shape, (*QUERY_KEY_VALUE, BIAS))
        assert temporaries(with_bias) <= temporaries(without) + PADDING

    def test_unused_gradient_costs_no_call(self) -> None:
        shape = self.SHAPES[0]
        assert running.kernel_calls(self.compiled(shape, QUERY_KEY_VALUE)) == KERNELS
        assert running.kernel_calls(self.compiled(shape, (BIAS,))) == KERNELS
        both = self.compiled(shape, (*QUERY_KEY_VALUE, BIAS))
        assert running.kernel_calls(both) == KERNELS | {"jax_fa4_cpu_backward": 2}


# What follows measures processes: the kernels' own workspace is not in XLA's plan.


def resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (the most since the last reset) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def reset_peak() -> None:
    """Gives back what has been freed, then lets VmHWM start from what remains."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def growth(implementation: str, lengths: tuple[int, ...], of: tuple[int, ...] = QUERY_KEY_VALUE) -> list[int]:
    """Bytes by which this process grows beyond its inputs in one forward and backward, causal, for each length."""

    @functools.partial(jax.jit, static_argnums=0)
    def inputs(length: int) -> list[jax.Array]:
        keys = jax.random.split(jax.random.key(0), 3)
        arrays = [jax.random.normal(key, (1, length, HEADS, HEAD_DIM)) for key in keys]
        return [*arrays, jnp.ones((1, HEADS, length, length))] if BIAS in of else arrays

    def run(program: Any, arrays: list[jax.Array]) -> None:
        jax.block_until_ready(program(*arrays))

    small = gradients_of(implementation, 512, is_causal=True, of=of)
    found = []
    for length in lengths:
        program = gradients_of(implementation, length, is_causal=True, of=of)
        arrays = jax.block_until_ready(inputs(length))
        run(small, inputs(512))
        reset_peak()
        before = resident("VmRSS")
        run(program, arrays)
        found.append(resident("VmHWM") - before)
    return found


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs one function in a process of its own and returns its result."""
    if platform.libc_ver()[0] != "glibc" or not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("needs glibc and Linux's /proc/self/clear_refs")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    # Each thread has a workspace: how many happen to take part must not decide.
    monkeypatch.setenv("JAX_FA4_CPU_THREADS", "2")
    # Larger allocations are mapped anew and given back at once: the heap would keep some, and hide growth in them.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")

    def run(function: Any, *arguments: Any) -> Any:
        spawning = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawning) as pool:
            return pool.submit(function, *arguments).result()

    return run


def assert_linear(lengths: tuple[int, ...], grown: list[int]) -> None:
    """Asserts that the growth from the middle length to the last is what the first to the middle one foretells."""
    (first, middle, last), (least, medium, most) = lengths, grown
    slope = (medium - least) / (middle - first)
    assert slope > 0
    assert most - medium <= slope * (last - middle) + NOISE, dict(zip(lengths, grown, strict=True))


@pytest.mark.slow
def test_process_grows_linearly(fresh_process: Any) -> None:
    lengths = (1024, 2048, 4096)
    assert_linear(lengths, fresh_process(growth, "cpu", lengths))


@pytest.mark.slow
def test_process_grows_linearly_far(fresh_process: Any) -> None:
    lengths = (1024, 4096, 16384)
    assert_linear(lengths, fresh_process(growth, "cpu", lengths))


@pytest.mark.slow
def test_process_growth_beside_jax_nn(fresh_process: Any) -> None:
    (ours,) = fresh_process(growth, "cpu", (8192,))
    assert ours < temporaries_of_jax_nn(8192) / 20


@pytest.mark.slow
def test_process_growth_sees_quadratic_memory(fresh_process: Any) -> None:
    """The measure is one: it finds what XLA plans for jax.nn, and that it is not linear."""
    lengths = (512, 1024, 2048)
    grown = fresh_process(growth, "jax.nn", lengths)
    assert grown[-1] > temporaries_of_jax_nn(2048)
    with pytest.raises(AssertionError):
        assert_linear(lengths, grown)


@pytest.mark.slow
def test_process_growth_of_bias_gradient(fresh_process: Any) -> None:
    """The kernel's workspace for it is tiles: less than one head's T x S in float32."""
    length = 2048
    (without,) = fresh_process(growth, "cpu", (length,))
    (with_bias,) = fresh_process(growth, "cpu", (length,), (*QUERY_KEY_VALUE, BIAS))
    one_head = 4 * length * length
    assert with_bias - without < (HEADS + 1) * one_head


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("heads", [1, 2])
def test_no_operand_is_copied(dtype: str, heads: int) -> None:
    """A program is its call: XLA once copied keys and values of one head, for an axis of extent 1 in front of them."""
    shapes = [(1, 16, 8, 64), (1, 64, heads, 64), (1, 64, heads, 64)]
    inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    text = jax.jit(jax_fa4.attention).lower(*inputs).compile().as_text()
    assert text.count("custom-call(") == 1
    assert "copy(" not in text and "fusion(" not in text
