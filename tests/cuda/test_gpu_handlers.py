"""The handlers of platform CUDA, called as XLA's CUDA client calls them: stages, streams, contexts, device memory."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from ctypes import byref, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import echo
import jax
import numpy as np
import pytest

from jax_fa4 import extension, manifest

F32, BF16, PRED, S32 = 11, 16, 1, 4  # XLA_FFI_DataType
INITIALIZE, EXECUTE = 2, 3  # XLA_FFI_ExecutionStage
ABSENT = ((F32, (0,)), (PRED, (0,)), (F32, (0,)), (F32, (0,)), *(((S32, (0,)),) * 5))
COMMAND_BUFFER_COMPATIBLE = 1
HANDLERS = extension.registrations()["CUDA"]["jax_fa4_cuda_forward"]

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")


class Row(ctypes.Structure):
    _fields_ = [("type", c_int32), ("rank", c_int32), ("dims", c_int64 * 5), ("data", c_void_p)]


def address_of(capsule: Any) -> c_void_p:
    ctypes.pythonapi.PyCapsule_GetPointer.restype = c_void_p
    ctypes.pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return c_void_p(ctypes.pythonapi.PyCapsule_GetPointer(capsule, None))


@pytest.fixture(scope="module")
def xla(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("fake_gpu_call") / "fake_gpu_call.so"
    source = Path(__file__).parent / "fake_gpu_call.cc"
    command = ["c++", "-std=c++20", "-shared", "-fPIC", "-isystem", jax.ffi.include_dir(), "-o", library, source]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


class Gpu:
    """A stream and memory of the stand-in, and a call's arrays in it; no context stays current."""

    def __init__(self, xla: ctypes.CDLL, extents: tuple[int, ...]) -> None:
        from jax_fa4_simulator import driver_path

        batch, queries, keys, heads, kv_heads = extents
        self.xla, self.driver = xla, ctypes.CDLL(str(driver_path()))
        self.context, self.stream = c_void_p(), c_void_p()
        self.ok(self.driver.cuInit(0))
        self.ok(self.driver.cuDevicePrimaryCtxRetain(byref(self.context), 0))
        self.push()
        self.ok(self.driver.cuStreamCreate(byref(self.stream), 1))
        shapes = [
            (BF16, (1, batch, length, n, 64)) for length, n in ((queries, heads), (keys, kv_heads), (keys, kv_heads))
        ]
        results = [(BF16, (1, batch, queries, heads, 64)), (F32, (1, batch, heads, queries))]
        self.arrays = [self.allocate(*array) for array in (*shapes, *ABSENT, *results)]
        self.pop()

    def ok(self, status: int) -> None:
        assert status == 0

    def push(self) -> None:
        self.ok(self.driver.cuCtxPushCurrent_v2(self.context))

    def pop(self) -> None:
        self.ok(self.driver.cuCtxPopCurrent_v2(byref(c_void_p())))

    def allocate(self, kind: int, shape: tuple[int, ...]) -> Row:
        width = {F32: 4, BF16: 2, PRED: 1, S32: 4}[kind]
        address = c_uint64()
        if np.prod(shape):
            self.ok(self.driver.cuMemAlloc_v2(byref(address), c_size_t(int(np.prod(shape)) * width)))
        return Row(kind, len(shape), (c_int64 * 5)(*shape), address.value)

    def bytes_of(self, place: int) -> Any:
        """An array's memory; the stand-in's device memory is the host's."""
        row = self.arrays[place]
        count = int(np.prod(row.dims[: row.rank])) * (4 if row.type == F32 else 2)
        return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(row.data))

    def call(self, stage: int, stream: Any = None) -> tuple[int, str]:
        words = ctypes.create_string_buffer(1000)
        rows = (Row * len(self.arrays))(*self.arrays)
        handler = address_of(HANDLERS["initialize" if stage == INITIALIZE else "execute"])
        stream = self.stream if stream is None else stream
        code = self.xla.call(handler, stage, stream, rows, len(rows) - 2, 2, words, c_size_t(len(words)))
        return code, words.value.decode()


@pytest.fixture
def gpu(simulated_driver: Any, echo_kernels: Path, xla: ctypes.CDLL) -> Gpu:
    manifest.variants()
    return Gpu(xla, (2, 70, 5, 2, 1))


def test_a_call(gpu: Gpu, simulated_driver: Any) -> None:
    query = np.random.default_rng(0).standard_normal(2 * 70 * 2 * 64).astype("bfloat16")
    gpu.bytes_of(0)[:] = query.view(np.uint8)
    gpu.bytes_of(1)[:] = 0
    assert gpu.call(INITIALIZE) == (0, "")
    assert simulated_driver.take_launches() == []
    assert gpu.call(EXECUTE) == (0, "")
    np.testing.assert_array_equal(gpu.bytes_of(12), query.view(np.uint8))
    np.testing.assert_allclose(gpu.bytes_of(13).view(np.float32), 2 + 1.442695, rtol=1e-6)
    (launch,) = simulated_driver.take_launches()
    assert launch["grid"] == (8, 1, 1)


def test_kernels_are_loaded_before_anything_is_captured(gpu: Gpu, echo_kernels: Path) -> None:
    assert gpu.call(INITIALIZE) == (0, "")
    (echo_kernels / "echo.ptx").unlink()
    gpu.bytes_of(1)[:] = 0
    for _ in range(3):
        assert gpu.call(INITIALIZE) == (0, "")
        assert gpu.call(EXECUTE) == (0, "")


def test_the_current_context_stays_as_it_was(gpu: Gpu) -> None:
    current = c_void_p()
    gpu.call(INITIALIZE)
    gpu.call(EXECUTE)
    gpu.ok(gpu.driver.cuCtxGetCurrent(byref(current)))
    assert current.value is None
    gpu.push()
    gpu.call(EXECUTE)
    gpu.ok(gpu.driver.cuCtxGetCurrent(byref(current)))
    gpu.pop()
    assert current.value == gpu.context.value


def test_handlers_may_be_captured(xla: ctypes.CDLL) -> None:
    assert xla.traits(address_of(HANDLERS["execute"])) == COMMAND_BUFFER_COMPATIBLE


@pytest.mark.parametrize("stage", [INITIALIZE, EXECUTE])
def test_failures_are_words(
    gpu: Gpu, simulated_driver: Any, echo_kernels: Path, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated_driver.must_launch = False
    code, words = gpu.call(stage, c_void_p(4096))
    assert words.startswith("jax_fa4: asking for the context of XLA's stream failed: CUDA_ERROR_INVALID_HANDLE (400")
    echo.write(echo_kernels, arch="sm_90a")
    manifest.variants()
    code, words = gpu.call(stage)
    assert words.startswith(
        "jax_fa4: no kernel runs on NVIDIA B200 (simulated) (sm_100); this build has kernels for sm_90a"
    )
    assert words.endswith('Pass implementation="blockwise"')
    monkeypatch.setenv("JAX_FA4_CUDA_DRIVER", "/nowhere/libcuda.so")
    code, words = gpu.call(stage)
    assert words.startswith("jax_fa4: JAX_FA4_CUDA_DRIVER=/nowhere/libcuda.so: cannot be loaded")
    assert code == 9  # FAILED_PRECONDITION
    gpu.arrays[0].type = F32
    code, words = gpu.call(stage)
    assert code == 3  # INVALID_ARGUMENT
    assert "allowed: one float type for query, key and value" in words


def test_this_machine_without_a_driver(gpu: Gpu, simulated_driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        simulated_driver.must_launch = False
        monkeypatch.delenv("JAX_FA4_CUDA_DRIVER")
        _, words = gpu.call(INITIALIZE)
        assert words.startswith("jax_fa4: NVIDIA's driver was not found: libcuda.so.1")
        assert 'pass implementation="blockwise"' in words
    else:
        pytest.skip("this machine has a driver")
