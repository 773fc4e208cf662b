"""The handlers of platform CUDA, called as XLA's CUDA client calls them: stages, streams, contexts, GPUs, threads."""

from __future__ import annotations

import ctypes
import threading
from ctypes import byref, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import gpu_call
import numpy as np
import pytest
from gpu_call import BF16, EXECUTE, F32, HANDLERS, INITIALIZE, WIDTHS, GpuCall, Row, address_of
from stub import StubDriver
from stub_calls import call

from jax_fa4 import manifest

COMMAND_BUFFER_COMPATIBLE = 1
FAILED_PRECONDITION = 9

pytestmark = pytest.mark.skipif(gpu_call.NO_COMPILER, reason="needs a C++ compiler")


# --- On the simulator: the stages and the stream of a call, and memory that only the driver knows ---


class Gpu:
    """A stream and memory of the simulator, and a call's arrays in it; no context stays current."""

    def __init__(self) -> None:
        from jax_fa4_simulator import driver_path

        self.driver = ctypes.CDLL(str(driver_path()))
        self.context, self.stream = c_void_p(), c_void_p()
        self.ok(self.driver.cuInit(0))
        self.ok(self.driver.cuDevicePrimaryCtxRetain(byref(self.context), 0))
        self.push()
        self.ok(self.driver.cuStreamCreate(byref(self.stream), 1))
        query, key = (BF16, (1, 2, 70, 2, 64)), (BF16, (1, 2, 5, 1, 64))
        arrays = {"query": query, "key": key, "value": key, "output": query, "log_sum_exp": (F32, (1, 2, 2, 70))}
        self.call = GpuCall({name: self.allocate(*array) for name, array in arrays.items()})
        self.pop()

    def ok(self, status: int) -> None:
        assert status == 0

    def push(self) -> None:
        self.ok(self.driver.cuCtxPushCurrent_v2(self.context))

    def pop(self) -> None:
        self.ok(self.driver.cuCtxPopCurrent_v2(byref(c_void_p())))

    def allocate(self, kind: int, shape: tuple[int, ...]) -> Row:
        address = c_uint64()
        self.ok(self.driver.cuMemAlloc_v2(byref(address), c_size_t(int(np.prod(shape)) * WIDTHS[kind])))
        return gpu_call.array(kind, shape, address.value)

    def bytes_of(self, name: str) -> Any:
        """An array's memory; the simulator's device memory is the host's."""
        row = self.call.arrays[name]
        count = int(np.prod(row.dims[: row.rank])) * WIDTHS[row.type]
        return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(row.data))

    def make(self, stage: int) -> tuple[int, str]:
        return self.call.make(stage, self.stream)


@pytest.fixture
def gpu(simulated_driver: Any, echo_kernels: Path) -> Gpu:
    manifest.variants()
    return Gpu()


def test_a_call(gpu: Gpu, simulated_driver: Any) -> None:
    query = np.random.default_rng(0).standard_normal(2 * 70 * 2 * 64).astype("bfloat16")
    gpu.bytes_of("query")[:] = query.view(np.uint8)
    gpu.bytes_of("key")[:] = 0
    assert gpu.make(INITIALIZE) == (0, "")
    assert simulated_driver.take_launches() == []
    assert gpu.make(EXECUTE) == (0, "")
    np.testing.assert_array_equal(gpu.bytes_of("output"), query.view(np.uint8))
    np.testing.assert_allclose(gpu.bytes_of("log_sum_exp").view(np.float32), 1 + 1.442695, rtol=1e-6)
    (launch,) = simulated_driver.take_launches()
    assert launch["grid"] == (6, 1, 1)


def test_the_current_context_stays_as_it_was(gpu: Gpu) -> None:
    current = c_void_p()
    gpu.make(INITIALIZE)
    gpu.make(EXECUTE)
    gpu.ok(gpu.driver.cuCtxGetCurrent(byref(current)))
    assert current.value is None
    gpu.push()
    gpu.make(EXECUTE)
    gpu.ok(gpu.driver.cuCtxGetCurrent(byref(current)))
    gpu.pop()
    assert current.value == gpu.context.value


# --- On the driver that remembers ---


def test_handlers_may_be_captured() -> None:
    assert gpu_call.fake_xla().traits(c_void_p(address_of(HANDLERS["execute"]))) == COMMAND_BUFFER_COMPATIBLE


def test_kernels_are_loaded_before_anything_is_captured(stub_driver: StubDriver, every_kernel: Path) -> None:
    stream = stub_driver.stream()
    made = call()
    assert made.make(INITIALIZE, stream) == (0, "")
    assert (stub_driver.count("cuModuleLoadData"), stub_driver.launches()) == (1, [])
    for file in every_kernel.glob("*.cubin"):
        file.unlink()
    stub_driver.library.stub_capture(1)
    for _ in range(3):
        assert made.make(INITIALIZE, stream) == (0, "")
        assert made.make(EXECUTE, stream) == (0, "")
    assert (stub_driver.count("cuModuleLoadData"), len(stub_driver.launches())) == (1, 3)


def test_a_capture_without_the_initialize_stage_says_what_to_do(stub_driver: StubDriver) -> None:
    """XLA versions that skip the stage load inside the call, which works as long as nothing is captured."""
    stream = stub_driver.stream()
    stub_driver.library.stub_capture(1)
    code, words = call().make(EXECUTE, stream)
    assert code == FAILED_PRECONDITION
    assert words.startswith("jax_fa4: loading dense_bfloat16_bfloat16_64_64_0 for sm_100a failed: ")
    assert "A CUDA graph was being captured, and kernels cannot be loaded then" in words
    assert words.endswith("turn command buffers off with XLA_FLAGS=--xla_gpu_enable_command_buffer=")
    stub_driver.library.stub_capture(0)
    assert call().make(EXECUTE, stream) == (0, "")
    stub_driver.library.stub_capture(1)
    assert call().make(EXECUTE, stream) == (0, "")


def test_each_gpu_has_kernels_of_its_own(stub_driver: StubDriver) -> None:
    """The stand-in refuses a function or a stream of another context than the current one."""
    streams = [stub_driver.stream(device) for device in (0, 1, 2, 0)]
    for stage in (INITIALIZE, EXECUTE, EXECUTE):
        for stream in streams:
            assert call().make(stage, stream) == (0, "")
    launches = stub_driver.launches()
    assert [launch.device for launch in launches] == [0, 1, 2, 0] * 2
    assert len({launch.stream for launch in launches}) == 4
    assert stub_driver.count("cuModuleLoadData") == 3


def test_a_context_that_is_current_does_not_matter(stub_driver: StubDriver) -> None:
    other = c_void_p()
    stub_driver.library.cuDevicePrimaryCtxRetain(byref(other), 3)
    stub_driver.library.cuCtxPushCurrent_v2(other)
    stream = stub_driver.stream(1)
    assert call().make(INITIALIZE, stream) == (0, "")
    assert call().make(EXECUTE, stream) == (0, "")
    stub_driver.library.cuCtxPopCurrent_v2(byref(other))
    assert [launch.device for launch in stub_driver.launches()] == [1]


def test_threads_and_shapes_at_the_same_time(stub_driver: StubDriver) -> None:
    """Every thread has a stream on one of two GPUs, and calls of several kernels in turn, none of them loaded yet."""
    shapes = [{}, {"window": (-1, 0)}, {"logits_soft_cap": 1.0}, {"head_dims": (128, 128)}, {"lengths": (7, 0)}]
    stub_driver.reset(None)
    streams = [stub_driver.stream(i % 2) for i in range(6)]
    failed: list[tuple[int, str]] = []
    start = threading.Barrier(len(streams))

    def work(stream: c_void_p) -> None:
        start.wait()
        for _ in range(10):
            failed.extend(found for shape in shapes if (found := call(**shape).make(EXECUTE, stream)) != (0, ""))

    threads = [threading.Thread(target=work, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    launches = stub_driver.launches()
    assert len(launches) == len(streams) * 10 * len(shapes)
    by_thread = {(launch.thread, launch.device, launch.stream) for launch in launches}
    assert len(by_thread) == len(streams)
    assert sorted(device for _, device, _ in by_thread) == [0, 0, 0, 1, 1, 1]
    assert stub_driver.count("cuModuleLoadData") == 2 * 4  # shapes 1 and 5 share a kernel


def test_empty_results_need_nothing(stub_driver: StubDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_FA4_CUDA_DRIVER", "/nowhere/libcuda.so")
    for made in (call((1, 0)), call(lengths=(0, 5))):
        for stage in (INITIALIZE, EXECUTE):
            assert made.make(stage, c_void_p(4096)) == (0, "")
    assert stub_driver.count("cuInit") == 0
