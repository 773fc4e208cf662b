"""The stand-in driver: devices, contexts, libraries, its session and its file; every documented error."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from pathlib import Path

import jax_fa4_simulator
import pytest
from driver_host import (
    CONTEXT_IS_DESTROYED,
    INVALID_CLUSTER_SIZE,
    INVALID_CONTEXT,
    INVALID_DEVICE,
    INVALID_HANDLE,
    INVALID_IMAGE,
    INVALID_PTX,
    INVALID_VALUE,
    KERNELS,
    MAX_DYNAMIC_SHARED,
    NO_BINARY_FOR_GPU,
    NON_PORTABLE_CLUSTER,
    NOT_FOUND,
    NOT_INITIALIZED,
    REPOSITORY,
    SUCCESS,
    Driver,
    entry,
    last_words,
    ptx,
)
from jax_fa4_simulator import _simulator


def test_nothing_works_before_cuInit(raw: Driver) -> None:
    count = c_int()
    assert raw.cuDeviceGetCount(byref(count)) == NOT_INITIALIZED
    assert raw.cuCtxSynchronize() == NOT_INITIALIZED
    assert raw.load()[0] == NOT_INITIALIZED
    assert raw.cuInit(1) == INVALID_VALUE
    assert raw.cuDriverGetVersion(byref(count)) == SUCCESS
    assert count.value >= 12080  # the first with sm_100


@pytest.mark.parametrize(("key", "major", "processors"), [("b200", 10, 148), ("h200", 9, 132)])
def test_device(raw: Driver, key: str, major: int, processors: int) -> None:
    _simulator.driver.set_device(key)
    assert raw.cuInit(0) == SUCCESS
    value, device, size, name = c_int(), c_int(-1), c_size_t(), ctypes.create_string_buffer(64)
    assert raw.cuDeviceGetCount(byref(value)) == SUCCESS
    assert value.value == 1
    assert raw.cuDeviceGet(byref(device), 0) == SUCCESS
    assert raw.cuDeviceGet(byref(device), 1) == INVALID_DEVICE
    for attribute, expected in [(75, major), (16, processors), (97, 232448), (8, 49152), (10, 32), (120, 1)]:
        assert raw.cuDeviceGetAttribute(byref(value), attribute, device) == SUCCESS
        assert value.value == expected
    assert raw.cuDeviceGetAttribute(byref(value), 9999, device) == INVALID_VALUE
    assert raw.cuDeviceGetAttribute(byref(value), 16, 3) == INVALID_DEVICE
    assert raw.cuDeviceGetAttribute(None, 16, device) == INVALID_VALUE
    assert raw.cuDeviceGetName(name, 64, device) == SUCCESS
    assert key.upper() in name.value.decode()
    assert raw.cuDeviceGetName(name, 4, device) == SUCCESS
    assert name.value == b"NVI"
    assert raw.cuDeviceTotalMem_v2(byref(size), device) == SUCCESS
    assert size.value > 100 << 30


def test_contexts(raw: Driver) -> None:
    assert raw.cuInit(0) == SUCCESS
    context, current, device = c_void_p(), c_void_p(), c_int(-1)
    assert raw.cuDevicePrimaryCtxRelease_v2(0) == INVALID_CONTEXT
    assert raw.cuCtxGetDevice(byref(device)) == INVALID_CONTEXT
    assert raw.cuCtxPopCurrent_v2(None) == INVALID_CONTEXT
    assert raw.cuCtxSetCurrent(c_void_p(0x1234)) == INVALID_CONTEXT
    assert raw.cuDevicePrimaryCtxRetain(byref(context), 0) == SUCCESS
    assert raw.cuCtxGetCurrent(byref(current)) == SUCCESS
    assert not current.value
    assert raw.cuCtxPushCurrent_v2(context) == SUCCESS
    assert raw.cuCtxGetCurrent(byref(current)) == SUCCESS
    assert current.value == context.value
    assert raw.cuCtxGetDevice(byref(device)) == SUCCESS
    assert device.value == 0
    assert raw.cuDevicePrimaryCtxRelease_v2(0) == SUCCESS
    assert raw.cuCtxSynchronize() == CONTEXT_IS_DESTROYED
    assert raw.cuDevicePrimaryCtxRetain(byref(context), 0) == SUCCESS
    assert raw.cuCtxSynchronize() == SUCCESS
    assert raw.cuCtxPopCurrent_v2(byref(current)) == SUCCESS
    assert raw.cuCtxSynchronize() == INVALID_CONTEXT


def test_a_context_is_current_to_one_thread(driver: Driver) -> None:
    seen = []
    thread = threading.Thread(target=lambda: seen.append(driver.cuCtxSynchronize()))
    thread.start()
    thread.join()
    assert seen == [INVALID_CONTEXT]


def test_streams(driver: Driver) -> None:
    stream, context = c_void_p(), c_void_p()
    assert driver.cuStreamCreate(byref(stream), 2) == INVALID_VALUE
    assert driver.cuStreamCreate(byref(stream), 1) == SUCCESS
    assert driver.cuStreamGetCtx(stream, byref(context)) == SUCCESS
    assert context.value
    for special in (None, c_void_p(1), c_void_p(2), stream):
        assert driver.cuStreamSynchronize(special) == SUCCESS
    assert driver.cuStreamDestroy_v2(stream) == SUCCESS
    assert driver.cuStreamDestroy_v2(stream) == INVALID_HANDLE
    assert driver.cuStreamSynchronize(stream) == INVALID_HANDLE


def test_error_names(raw: Driver) -> None:
    text = c_char_p()
    assert raw.cuGetErrorName(INVALID_CLUSTER_SIZE, byref(text)) == SUCCESS
    assert text.value == b"CUDA_ERROR_INVALID_CLUSTER_SIZE"
    assert raw.cuGetErrorString(INVALID_CLUSTER_SIZE, byref(text)) == SUCCESS
    assert text.value
    assert raw.cuGetErrorName(12345, byref(text)) == INVALID_VALUE
    assert text.value is None


def test_functions_are_found_by_base_name(raw: Driver) -> None:
    function, status = c_void_p(), c_int(-1)
    for symbol, version, found in [(b"cuMemAlloc", 12000, 0), (b"cuMemAlloc", 2000, 2), (b"cuNothing", 12000, 1)]:
        assert raw.cuGetProcAddress_v2(symbol, byref(function), version, c_uint64(0), byref(status)) == SUCCESS
        assert status.value == found
        assert bool(function.value) == (found == 0)
    assert raw.cuGetProcAddress_v2(b"cuInit", byref(function), 99000, c_uint64(0), None) == INVALID_VALUE


def test_libraries(driver: Driver) -> None:
    status, library = driver.load()
    assert status == SUCCESS, last_words()
    kernel, function = c_void_p(), c_void_p()
    assert driver.cuLibraryGetKernel(byref(kernel), library, b"missing") == NOT_FOUND
    assert driver.cuLibraryGetKernel(byref(kernel), library, b"empty") == SUCCESS
    assert driver.cuLibraryGetKernel(byref(kernel), c_void_p(64), b"empty") == INVALID_HANDLE
    assert driver.cuKernelGetFunction(byref(function), kernel) == SUCCESS
    assert driver.cuKernelGetFunction(byref(function), c_void_p(64)) == INVALID_HANDLE
    assert driver.launch(function) == SUCCESS
    assert driver.launch(kernel) == SUCCESS  # a CUkernel may be launched, too
    assert driver.cuLibraryUnload(library) == SUCCESS
    assert driver.cuLibraryUnload(library) == INVALID_VALUE
    assert driver.launch(function) == INVALID_HANDLE
    assert driver.launch(kernel) == INVALID_HANDLE


def test_modules(driver: Driver) -> None:
    module, function = c_void_p(), c_void_p()
    assert driver.cuModuleLoadData(byref(module), c_char_p(KERNELS)) == SUCCESS
    assert driver.cuModuleGetFunction(byref(function), module, b"missing") == NOT_FOUND
    assert driver.cuModuleGetFunction(byref(function), module, b"empty") == SUCCESS
    assert driver.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, None, None) == SUCCESS
    assert driver.cuModuleUnload(module) == SUCCESS
    assert driver.cuModuleGetFunction(byref(function), module, b"empty") == INVALID_VALUE
    assert driver.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, None, None) == INVALID_HANDLE


@pytest.mark.parametrize(
    ("image", "status"),
    [
        (b"\x7fELF\x02\x01\x01\x33", NO_BINARY_FOR_GPU),
        (b"\x50\xed\x55\xba\x01\x00\x10\x00", NO_BINARY_FOR_GPU),
        (b"\x00\x01\x02\x03", INVALID_IMAGE),
        (b"", INVALID_IMAGE),
        (b"not PTX at all", INVALID_PTX),
        (ptx(entry("k"), target="sm_90a"), NO_BINARY_FOR_GPU),
        (ptx(entry("k"), target="sm_103a"), NO_BINARY_FOR_GPU),
        (ptx(entry("k"), target="sm_120"), NO_BINARY_FOR_GPU),
        (ptx(entry("k"), target="sm_90"), SUCCESS),
        (ptx(entry("k"), target="sm_100f"), SUCCESS),
    ],
)
def test_images(driver: Driver, image: bytes, status: int) -> None:
    assert driver.load(image)[0] == status, last_words()


def test_a_null_image_is_an_invalid_value(driver: Driver) -> None:
    library = c_void_p()
    assert driver.cuLibraryLoadData(byref(library), None, None, None, 0, None, None, 0) == INVALID_VALUE
    assert driver.cuLibraryLoadData(None, c_char_p(KERNELS), None, None, 0, None, None, 0) == INVALID_VALUE


def test_the_error_log_has_file_line_and_reason(driver: Driver) -> None:
    broken = ptx(entry("k", "  add.q32 %r1, %r1, %r1;\n  ret;"))
    log, library = ctypes.create_string_buffer(200), c_void_p()
    options, values = (c_uint * 2)(5, 6), (c_void_p * 2)(ctypes.addressof(log), len(log))
    assert driver.cuLibraryLoadData(byref(library), c_char_p(broken), options, values, 2, None, None, 0) == INVALID_PTX
    text = log.value.decode()
    assert "add.q32" in text
    assert re.search(r":7\b", text)
    assert values[1] == len(text)
    options[0] = 999
    assert (
        driver.cuLibraryLoadData(byref(library), c_char_p(KERNELS), options, values, 2, None, None, 0) == INVALID_VALUE
    )


def test_attributes(driver: Driver) -> None:
    value = c_int()
    for name, attribute, expected in [
        ("exact", 0, 64),
        ("narrow", 0, 256),
        ("empty", 0, 1024),
        ("holds", 1, 1024),
        ("holds", MAX_DYNAMIC_SHARED, 49152 - 1024),
        ("empty", 5, 100),
        ("empty", NON_PORTABLE_CLUSTER, 0),
    ]:
        assert driver.cuKernelGetAttribute(byref(value), attribute, driver.kernel(name), 0) == SUCCESS
        assert value.value == expected, (name, attribute)
    kernel, function = driver.kernel("holds"), c_void_p()
    assert driver.cuKernelGetFunction(byref(function), kernel) == SUCCESS
    for attribute, given, status in [
        (MAX_DYNAMIC_SHARED, 232448 - 1024, SUCCESS),
        (MAX_DYNAMIC_SHARED, 232448 - 1023, INVALID_VALUE),
        (MAX_DYNAMIC_SHARED, -1, INVALID_VALUE),
        (NON_PORTABLE_CLUSTER, 1, SUCCESS),
        (NON_PORTABLE_CLUSTER, 2, INVALID_VALUE),
        (1, 64, INVALID_VALUE),
        (77, 1, INVALID_VALUE),
    ]:
        assert driver.cuKernelSetAttribute(attribute, given, kernel, 0) == status, (attribute, given)
        assert driver.cuFuncSetAttribute(function, attribute, given) == status, (attribute, given)
    assert driver.cuFuncGetAttribute(byref(value), MAX_DYNAMIC_SHARED, function) == SUCCESS
    assert value.value == 232448 - 1024
    assert driver.cuKernelSetAttribute(MAX_DYNAMIC_SHARED, 0, kernel, 1) == INVALID_DEVICE
    assert driver.cuKernelSetAttribute(MAX_DYNAMIC_SHARED, 0, c_void_p(64), 0) == INVALID_HANDLE
    assert driver.cuFuncSetAttribute(c_void_p(64), MAX_DYNAMIC_SHARED, 0) == INVALID_HANDLE


def test_options(raw: Driver) -> None:
    _simulator.driver.set_options({"schedule": "random", "seed": 7, "checks": False, "skip": [3, 5]})
    options = _simulator.driver.options()
    assert (options["schedule"], options["seed"], options["checks"], options["skip"]) == ("random", 7, False, [3, 5])
    _simulator.driver.set_options(options)
    assert _simulator.driver.options() == options
    for wrong in ({"speed": 1}, {"schedule": "fast"}, {"threads": 0}, {"seed": "x"}, {"checks": 2}, {"skip": [-1]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            _simulator.driver.set_options(wrong)
    assert _simulator.driver.options() == options


def test_the_device_is_chosen_before_it_is_used(driver: Driver) -> None:
    with pytest.raises(ValueError, match="no context is retained"):
        _simulator.driver.set_device("h200")
    _simulator.driver.reset()
    with pytest.raises(ValueError, match="b300"):
        _simulator.driver.set_device("b300")
    _simulator.driver.set_device("h200")
    assert _simulator.driver.device() == "h200"
    assert driver.cuInit(0) == SUCCESS
    assert driver.load()[0] == NO_BINARY_FOR_GPU
    assert driver.load(ptx(entry("k"), target="sm_90a"))[0] == SUCCESS


@pytest.mark.parametrize(
    ("environment", "status", "words"),
    [
        ({"JAX_FA4_SIMULATOR_DEVICE": "h200"}, SUCCESS, ""),
        ({"JAX_FA4_SIMULATOR_DEVICE": "a100"}, INVALID_VALUE, "a100: there are b200, h200"),
        ({"JAX_FA4_SIMULATOR_OPTIONS": "schedule=random,seed=7,threads=2"}, SUCCESS, ""),
        ({"JAX_FA4_SIMULATOR_OPTIONS": "schedule=random,speed=7"}, INVALID_VALUE, 'no option "speed"'),
        ({"JAX_FA4_SIMULATOR_OPTIONS": "random"}, INVALID_VALUE, "name=value"),
    ],
)
def test_environment(
    raw: Driver, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], status: int, words: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert raw.cuInit(0) == status
    assert words in last_words()
    if status == SUCCESS:
        expected = environment.get("JAX_FA4_SIMULATOR_DEVICE", "b200")
        assert _simulator.driver.device() == expected
        assert _simulator.driver.options()["seed"] == (7 if "JAX_FA4_SIMULATOR_OPTIONS" in environment else 0)


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_exports() -> None:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", jax_fa4_simulator.driver_path()], check=True, capture_output=True, text=True
    ).stdout
    names = {line.split()[-1] for line in listing.splitlines()}
    names = {name for name in names if not re.match(r"_Z\w*N?K?3sim", name)}  # the Python module links namespace sim
    header = (REPOSITORY / "ffi/cuda/driver_abi.h").read_text()
    calls = set(re.findall(r"CALL\((cu\w+)", header))
    assert len(calls) > 40
    assert names - {"_init", "_fini"} == calls | {"jax_fa4_simulator_session"}


def _cuda_headers() -> list[Path]:
    roots = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    roots += [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"))]
    packages = {Path(sysconfig.get_paths()["purelib"]), *(Path(path) for path in sys.path if "site-packages" in path)}
    found = [root / "include" for root in roots]
    found += [path for root in packages for path in sorted(root.glob("nvidia/*/include"))]
    return [path for path in found if (path / "cuda.h").is_file()]


def test_declarations_agree_with_cuda_h(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    headers = _cuda_headers()
    if compiler is None or not headers:
        pytest.skip("no C++ compiler or no cuda.h")
    own = (REPOSITORY / "ffi/cuda/driver_abi.h").read_text()
    constants = re.findall(r"^  (CU\w+) = \d+,", own, re.MULTILINE)
    assert len(constants) > 100
    for folder in headers:
        real = (folder / "cuda.h").read_text(errors="replace")
        known = [name for name in constants if re.search(rf"\b{name}\b", real)]  # an older header lacks the newest
        assert len(known) > 0.9 * len(constants)
        (tmp_path / "constants.inc").write_text("".join(f"SAME_VALUE({name});\n" for name in known))
        command = [compiler, "-std=c++20", "-fsyntax-only", f"-I{tmp_path}", f"-isystem{folder}"]
        source = REPOSITORY / "tests/simulator/driver_abi.cc"
        done = subprocess.run([*command, source], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
