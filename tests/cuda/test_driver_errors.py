"""What can be wrong with a driver, a GPU or a call of it: every way says what was being done and what would help."""

from __future__ import annotations

import ctypes
import re
from ctypes import c_void_p
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import stub
from gpu_call import EXECUTE, INITIALIZE
from stub import StubDriver
from stub_calls import call

import jax_fa4
from jax_fa4 import manifest

UNKNOWN = 999  # the stand-in has no name for it
HEADER = Path(__file__).parents[2] / "ffi/cuda/driver_abi.h"
RESULTS = dict(re.findall(r"^  CUDA_(ERROR_\w+) = (\d+),", HEADER.read_text(), re.MULTILINE))
REMEDIES = (
    "restart", "reboot", "update", "install", "lower", "pass implementation=", "needs no kernel", "see nvidia-smi",
    "start ", "call before", "build or install", "is it partitioned", "XLA_FLAGS", "report",
)  # fmt: skip


def words_of(driver: StubDriver, stage: int = EXECUTE) -> str:
    code, words = call().make(stage, driver.stream())
    assert code != 0
    assert driver.launches() == []
    return words


@pytest.mark.parametrize(
    ("name", "doing"),
    {
        "cuInit": "initialising the driver ",
        "cuStreamGetCtx": "asking for the context of XLA's stream",
        "cuModuleLoadData": "loading dense_bfloat16_bfloat16_64_64_0 for sm_100a",
        "cuModuleGetFunction": "finding dense_bfloat16_bfloat16_64_64_0_0 in dense_bfloat16_bfloat16_64_64_0",
        "cuFuncSetAttribute": "giving dense_bfloat16_bfloat16_64_64_0 200000 bytes of shared memory",
        "cuTensorMapEncodeTiled": "making the tensor map of query",
        "cuLaunchKernelEx": "launching dense_bfloat16_bfloat16_64_64_0 (12 blocks of 512 threads) on Stub 0",
    }.items(),
)
def test_calls_that_fail(stub_driver: StubDriver, name: str, doing: str) -> None:
    stub_driver.fail(name, UNKNOWN)
    assert re.match(
        rf"jax_fa4: {re.escape(doing)}.*failed: CUresult \(999\)\. No remedy is known", words_of(stub_driver)
    )
    stub_driver.fail(name, 0)
    assert call().make(EXECUTE, stub_driver.stream()) == (0, "")  # nothing of the failure was kept


@pytest.mark.parametrize(
    ("name", "doing"),
    {
        "cuDeviceGet": "asking for the first GPU",
        "cuDevicePrimaryCtxRetain": "making a context on the first GPU",
        "cuMemHostRegister_v2": r"declaring \d+ bytes of an array to the driver",
        "cuCtxSynchronize": "waiting for the kernel",
    }.items(),
)
def test_calls_on_arrays_of_the_host_that_fail(stub_driver: StubDriver, name: str, doing: str) -> None:
    array = jnp.zeros((1, 8, 1, 64), jnp.bfloat16)
    stub_driver.fail(name, UNKNOWN)
    with pytest.raises(jax.errors.JaxRuntimeError, match=rf"jax_fa4: {doing} failed: CUresult \(999\)"):
        jax.block_until_ready(jax_fa4.attention(array, array, array, implementation="sim"))


@pytest.fixture
def new_driver(stub_driver: StubDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubDriver:
    """Of which the launcher has asked nothing yet."""
    driver = StubDriver(copy=tmp_path / "driver.so")
    monkeypatch.setenv("JAX_FA4_CUDA_DRIVER", str(driver.path))
    driver.reset()
    return driver


@pytest.mark.parametrize(
    ("name", "doing"),
    {
        "cuCtxPushCurrent_v2": "making the GPU's context current",
        "cuCtxGetDevice": "asking for the context's GPU",
        "cuDeviceGetName": "asking for the GPU's name",
        "cuDeviceGetAttribute": "asking the GPU for an attribute",
    }.items(),
)
def test_calls_that_ask_what_the_gpu_is(new_driver: StubDriver, name: str, doing: str) -> None:
    stream = new_driver.stream()
    new_driver.fail(name, UNKNOWN)
    code, words = call().make(INITIALIZE, stream)
    assert code != 0
    assert words.startswith(f"jax_fa4: {doing} failed: CUresult (999)")
    new_driver.fail(name, 0)
    assert call().make(INITIALIZE, stream) == (0, "")


@pytest.mark.parametrize(("name", "number"), [pair for pair in RESULTS.items() if pair[0] != "ERROR_UNKNOWN"])
def test_results_say_what_would_help(stub_driver: StubDriver, name: str, number: str) -> None:
    stub_driver.fail("cuLaunchKernelEx", int(number))
    _, words = call().make(EXECUTE, stub_driver.stream())
    said, remedy = words.split(f"failed: CUDA_ERROR_NAMED ({number}: what the driver says). ")
    assert said.startswith("jax_fa4: launching ")
    assert any(hint.lower() in remedy.lower() for hint in REMEDIES)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("ERROR_OUT_OF_MEMORY", 8, "lower XLA_PYTHON_CLIENT_MEM_FRACTION"),
        ("ERROR_NO_BINARY_FOR_GPU", 12, 'pass implementation="blockwise"'),
        ("ERROR_NO_DEVICE", 9, "see nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ("ERROR_ILLEGAL_ADDRESS", 13, "the process can use the GPU no more: restart it"),
        ("ERROR_SYSTEM_DRIVER_MISMATCH", 9, "restart the machine"),
        ("ERROR_NOT_INITIALIZED", 9, "start processes by spawn"),
        ("ERROR_HOST_MEMORY_ALREADY_REGISTERED", 13, "No remedy is known: please report it"),
    ],
)
def test_results_have_codes(stub_driver: StubDriver, name: str, code: int, words: str) -> None:
    stub_driver.fail("cuModuleLoadData", int(RESULTS[name]))
    found, said = call().make(INITIALIZE, stub_driver.stream())
    assert found == code
    assert words in said


@pytest.mark.parametrize("stage", [INITIALIZE, EXECUTE])
def test_a_stream_that_is_none(stub_driver: StubDriver, stage: int) -> None:
    code, words = call().make(stage, c_void_p(4096))
    assert code == 13
    assert words.startswith("jax_fa4: asking for the context of XLA's stream failed: CUDA_ERROR_NAMED (400")


def test_a_driver_that_is_too_old(new_driver: StubDriver) -> None:
    new_driver.library.stub_version(12060)
    code, words = call().make(INITIALIZE, new_driver.stream())
    assert code == 9
    assert words == (
        "jax_fa4: dense_bfloat16_bfloat16_64_64_0 needs a driver of CUDA 12.8 or newer; this one is CUDA 12.6: update "
        'NVIDIA\'s driver, or pass implementation="blockwise"'
    )


@pytest.mark.parametrize("stage", [INITIALIZE, EXECUTE])
def test_a_driver_from_before_the_calls(stub_driver: StubDriver, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    old = StubDriver("-DSTUB_IS_OLD")
    monkeypatch.setenv("JAX_FA4_CUDA_DRIVER", str(old.path))
    code, words = call().make(stage, c_void_p(4096))
    assert code == 9
    assert words.endswith(" has no cuLaunchKernelEx, cuTensorMapEncodeTiled; it is CUDA 11.4: update NVIDIA's driver")


@pytest.mark.parametrize("stage", [INITIALIZE, EXECUTE])
def test_a_driver_that_cannot_be_loaded(stub_driver: StubDriver, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_FA4_CUDA_DRIVER", "/nowhere/libcuda.so")
    code, words = call().make(stage, c_void_p(4096))
    assert code == 9
    assert words.startswith("jax_fa4: JAX_FA4_CUDA_DRIVER=/nowhere/libcuda.so: cannot be loaded")


def test_this_machine_without_a_driver(stub_driver: StubDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        monkeypatch.delenv("JAX_FA4_CUDA_DRIVER")
        _, words = call().make(INITIALIZE, c_void_p(4096))
        assert words.startswith("jax_fa4: NVIDIA's driver was not found: libcuda.so.1")
        assert 'pass implementation="blockwise"' in words
    else:
        pytest.skip("this machine has a driver")


@pytest.mark.parametrize(
    ("arch", "device", "gpu"),
    [("sm_100a", 4, "10.3"), ("sm_100a", 5, "9.0"), ("sm_100f", 6, "12.0"), ("sm_90a", 0, "10.0")],
)
def test_gpus_that_no_kernel_runs_on(
    stub_driver: StubDriver, every_kernel: Path, arch: str, device: int, gpu: str
) -> None:
    stub.write(every_kernel, *stub.every_row(), arch=arch)
    manifest.variants()
    code, words = call().make(INITIALIZE, stub_driver.stream(device))
    number = gpu.replace(".", "")
    assert code == 12
    assert words == (
        f"jax_fa4: no kernel runs on Stub {device} (sm_{number}); this build has kernels for {arch}. "
        'Pass implementation="blockwise"'
    )


def test_a_family_of_gpus(stub_driver: StubDriver, every_kernel: Path) -> None:
    stub.write(every_kernel, *stub.every_row(), arch="sm_100f")
    manifest.variants()
    for device in (0, 4):
        assert call().make(INITIALIZE, stub_driver.stream(device)) == (0, "")


def test_a_file_that_is_gone(stub_driver: StubDriver, every_kernel: Path) -> None:
    file = every_kernel / "dense_bfloat16_bfloat16_64_64_0.cubin"
    file.unlink()
    code, words = call().make(INITIALIZE, stub_driver.stream())
    assert (code, words) == (9, f"jax_fa4: the kernel's file {file} cannot be read: install jax_fa4 again")
