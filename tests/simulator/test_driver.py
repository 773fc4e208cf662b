"""The stand-in driver, called as a host calls it: every documented error, and a kernel that works."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from ctypes import byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import jax_fa4_simulator
import numpy as np
import pytest
from jax_fa4_simulator import _simulator

REPOSITORY = Path(__file__).parents[2]

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED, INVALID_DEVICE = 0, 1, 2, 3, 101
INVALID_IMAGE, INVALID_CONTEXT, NO_BINARY_FOR_GPU, INVALID_PTX, INVALID_HANDLE, NOT_FOUND = 200, 201, 209, 218, 400, 500
ILLEGAL_ADDRESS, LAUNCH_TIMEOUT, CONTEXT_IS_DESTROYED, MISALIGNED_ADDRESS = 700, 702, 709, 716
ALREADY_REGISTERED, NOT_REGISTERED, NOT_SUPPORTED, INVALID_CLUSTER_SIZE = 712, 713, 801, 912
MAX_DYNAMIC_SHARED, NON_PORTABLE_CLUSTER = 8, 14  # function attributes
CLUSTER, SERIALIZATION = 4, 6  # launch attributes

ADD = """
  .reg .pred %p<2>;
  .reg .b32 %r<9>;
  .reg .b64 %rd<9>;
  ld.param.u64 %rd1, [{name}_0];
  ld.param.u64 %rd2, [{name}_1];
  ld.param.u64 %rd3, [{name}_2];
  ld.param.u32 %r1, [{name}_3];
  mov.u32 %r2, %ctaid.x;
  mov.u32 %r3, %ntid.x;
  mov.u32 %r4, %tid.x;
  mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %p1, %r5, %r1;
  @%p1 bra done;
  mul.wide.u32 %rd4, %r5, 4;
  add.s64 %rd5, %rd1, %rd4;
  add.s64 %rd6, %rd2, %rd4;
  add.s64 %rd7, %rd3, %rd4;
  ld.global.u32 %r6, [%rd5];
  ld.global.u32 %r7, [%rd6];
  add.s32 %r8, %r6, %r7;
  st.global.u32 [%rd7], %r8;
done:
  ret;
"""
ADD_PARAMETERS = ".param .u64 {name}_0, .param .u64 {name}_1, .param .u64 {name}_2, .param .u32 {name}_3"


def _entry(name: str, body: str = "  ret;", directives: str = "", parameters: str = "") -> str:
    parameters, body = parameters.format(name=name), body.replace("{name}", name)
    return f".visible .entry {name}({parameters}) {directives}\n{{\n{body}\n}}\n"


def _ptx(*entries: str, target: str = "sm_100a") -> bytes:
    return f".version 8.7\n.target {target}\n.address_size 64\n\n{''.join(entries)}".encode()


KERNELS = _ptx(
    _entry("add", ADD, parameters=ADD_PARAMETERS),
    _entry("empty"),
    _entry("exact", directives=".reqntid 64, 1, 1"),
    _entry("narrow", directives=".maxntid 256, 1, 1"),
    _entry("holds", "  .shared .align 16 .b8 kept[1024];\n  ret;"),
    _entry("endless", "again:\n  bra again;"),
    _entry("pair", "  tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;\n  ret;"),
)


class LaunchAttribute(ctypes.Structure):
    _fields_ = [("id", c_uint), ("pad", c_uint), ("value", c_uint * 16)]


class LaunchConfig(ctypes.Structure):
    _fields_ = [
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared", c_uint),
        ("stream", c_void_p),
        ("attributes", ctypes.POINTER(LaunchAttribute)),
        ("count", c_uint),
    ]


class Driver:
    """The library's calls by name; each returns its CUresult."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(os.fspath(jax_fa4_simulator.driver_path()))

    def __getattr__(self, name: str) -> Callable[..., int]:
        return getattr(self.library, name)

    def context(self) -> c_void_p:
        context = c_void_p()
        assert self.cuDevicePrimaryCtxRetain(byref(context), 0) == SUCCESS
        assert self.cuCtxSetCurrent(context) == SUCCESS
        return context

    def load(self, text: bytes = KERNELS) -> tuple[int, c_void_p]:
        library = c_void_p()
        return self.cuLibraryLoadData(byref(library), c_char_p(text), None, None, 0, None, None, 0), library

    def kernel(self, name: str) -> c_void_p:
        status, library = self.load()
        assert status == SUCCESS, _simulator.driver.last_error()
        kernel = c_void_p()
        assert self.cuLibraryGetKernel(byref(kernel), library, name.encode()) == SUCCESS
        return kernel

    def launch(
        self,
        kernel: c_void_p,
        *arguments: Any,
        grid: tuple[int, ...] = (1, 1, 1),
        block: tuple[int, ...] = (32, 1, 1),
        cluster: tuple[int, int, int] | None = None,
        shared: int = 0,
        stream: Any = None,
        attributes: tuple[tuple[int, list[int]], ...] = (),
    ) -> int:
        if cluster is not None:
            attributes = (*attributes, (CLUSTER, list(cluster)))
        rows = (LaunchAttribute * max(len(attributes), 1))()
        for row, (number, value) in zip(rows, attributes, strict=False):
            row.id = number
            row.value[: len(value)] = value
        config = LaunchConfig((c_uint * 3)(*grid), (c_uint * 3)(*block), shared, stream, rows, len(attributes))
        parameters = (c_void_p * max(len(arguments), 1))(*(ctypes.addressof(argument) for argument in arguments))
        return self.cuLaunchKernelEx(byref(config), kernel, parameters, None)

    def register(self, array: np.ndarray[Any, Any], flags: int = 0) -> int:
        return self.cuMemHostRegister_v2(c_void_p(array.ctypes.data), c_size_t(array.nbytes), flags)


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """The stand-in as a process finds it."""
    monkeypatch.delenv("JAX_FA4_SIMULATOR_DEVICE", raising=False)
    monkeypatch.delenv("JAX_FA4_SIMULATOR_OPTIONS", raising=False)
    driver = Driver()
    _simulator.driver.reset()
    yield driver
    driver.cuInit(0)
    while driver.cuCtxPopCurrent_v2(None) == SUCCESS:
        pass
    _simulator.driver.reset()


@pytest.fixture
def driver(raw: Driver) -> Driver:
    """Initialised, with the primary context current."""
    assert raw.cuInit(0) == SUCCESS
    raw.context()
    return raw


def _words() -> str:
    return str(_simulator.driver.last_error())


def _add_arguments(driver: Driver, count: int = 100) -> tuple[list[Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    a, b, out = np.arange(count, dtype=np.uint32), np.full(count, 7, np.uint32), np.zeros(count, np.uint32)
    for array in (a, b, out):
        assert driver.register(array) == SUCCESS
    arrays = [c_uint64(array.ctypes.data) for array in (a, b, out)]
    arrays[0].kept = (a, b, out)  # type: ignore[attr-defined]
    return [*arrays, c_uint(count)], out, a + b


# --- Initialisation, devices, contexts ---


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


# --- Libraries, kernels, attributes ---


def test_libraries(driver: Driver) -> None:
    status, library = driver.load()
    assert status == SUCCESS, _words()
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
        (_ptx(_entry("k"), target="sm_90a"), NO_BINARY_FOR_GPU),
        (_ptx(_entry("k"), target="sm_103a"), NO_BINARY_FOR_GPU),
        (_ptx(_entry("k"), target="sm_120"), NO_BINARY_FOR_GPU),
        (_ptx(_entry("k"), target="sm_90"), SUCCESS),
        (_ptx(_entry("k"), target="sm_100f"), SUCCESS),
    ],
)
def test_images(driver: Driver, image: bytes, status: int) -> None:
    assert driver.load(image)[0] == status, _words()


def test_a_null_image_is_an_invalid_value(driver: Driver) -> None:
    library = c_void_p()
    assert driver.cuLibraryLoadData(byref(library), None, None, None, 0, None, None, 0) == INVALID_VALUE
    assert driver.cuLibraryLoadData(None, c_char_p(KERNELS), None, None, 0, None, None, 0) == INVALID_VALUE


def test_the_error_log_has_file_line_and_reason(driver: Driver) -> None:
    broken = _ptx(_entry("k", "  add.q32 %r1, %r1, %r1;\n  ret;"))
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


# --- Launches ---


@pytest.mark.parametrize(
    ("kernel", "options", "status", "words"),
    [
        ("empty", {"grid": (0, 1, 1)}, INVALID_VALUE, "grid 0x1x1"),
        ("empty", {"grid": (1, 65536, 1)}, INVALID_VALUE, "y must be from 1 to 65535"),
        ("empty", {"block": (1025, 1, 1)}, INVALID_VALUE, "block 1025x1x1"),
        ("empty", {"block": (32, 2, 65)}, INVALID_VALUE, "z must be from 1 to 64"),
        ("empty", {"block": (64, 32, 1)}, INVALID_VALUE, "2048 threads"),
        ("exact", {"block": (32, 1, 1)}, INVALID_VALUE, "requires 64x1x1"),
        ("exact", {"block": (64, 1, 1)}, SUCCESS, ""),
        ("narrow", {"block": (257, 1, 1)}, INVALID_VALUE, "at most 256"),
        ("empty", {"shared": 49153}, INVALID_VALUE, "MAX_DYNAMIC_SHARED_SIZE_BYTES is 49152"),
        ("holds", {"shared": 49152}, INVALID_VALUE, "MAX_DYNAMIC_SHARED_SIZE_BYTES is 48128"),
        ("empty", {"shared": 232449}, INVALID_VALUE, "at most 232448"),
        ("empty", {"grid": (3, 1, 1), "cluster": (2, 1, 1)}, INVALID_CLUSTER_SIZE, "does not divide"),
        ("empty", {"grid": (16, 1, 1), "cluster": (16, 1, 1)}, INVALID_CLUSTER_SIZE, "NON_PORTABLE"),
        ("empty", {"cluster": (0, 1, 1)}, INVALID_CLUSTER_SIZE, "cluster 0x1x1"),
        ("empty", {"grid": (4, 2, 1), "cluster": (2, 2, 1)}, SUCCESS, ""),
        ("pair", {}, INVALID_CLUSTER_SIZE, "pairs CTAs"),
        ("pair", {"grid": (3, 1, 1), "cluster": (3, 1, 1)}, INVALID_CLUSTER_SIZE, "pairs CTAs"),
        ("empty", {"attributes": ((99, [1]),)}, INVALID_VALUE, "no launch attribute 99"),
        ("empty", {"attributes": ((2, [1]),)}, NOT_SUPPORTED, "launch attribute 2"),
        ("empty", {"attributes": ((SERIALIZATION, [1]),)}, SUCCESS, ""),
        ("empty", {"attributes": ((0, []), (8, [0]))}, SUCCESS, ""),
        ("empty", {"stream": c_void_p(4096)}, INVALID_HANDLE, "stream 0x1000"),
    ],
)
def test_launch_checks(driver: Driver, kernel: str, options: dict[str, Any], status: int, words: str) -> None:
    handle = driver.kernel(kernel)
    assert driver.launch(handle, **options) == status, _words()
    assert words in _words()
    (record,) = _simulator.driver.take_launches()
    assert record["kernel"] == kernel
    assert record["status"] == status
    assert words in record["words"]
    assert (record["outcome"] is None) == (status != SUCCESS)


def test_larger_limits_are_opted_in(driver: Driver) -> None:
    kernel = driver.kernel("empty")
    assert driver.cuKernelSetAttribute(MAX_DYNAMIC_SHARED, 232448, kernel, 0) == SUCCESS
    assert driver.launch(kernel, shared=232448) == SUCCESS, _words()
    assert driver.cuKernelSetAttribute(NON_PORTABLE_CLUSTER, 1, kernel, 0) == SUCCESS
    assert driver.launch(kernel, grid=(16, 1, 1), cluster=(16, 1, 1)) == SUCCESS, _words()
    assert driver.launch(kernel, grid=(32, 1, 1), cluster=(32, 1, 1)) == INVALID_CLUSTER_SIZE


def test_launch_without_a_context(raw: Driver) -> None:
    assert raw.cuInit(0) == SUCCESS
    assert raw.launch(raw.kernel("empty")) == INVALID_CONTEXT
    assert raw.cuLaunchKernelEx(None, None, None, None) == INVALID_VALUE


def test_a_kernel_adds(driver: Driver) -> None:
    arguments, out, expected = _add_arguments(driver)
    kernel = driver.kernel("add")
    assert driver.launch(kernel, *arguments, grid=(4, 1, 1)) == SUCCESS, _words()
    np.testing.assert_array_equal(out, expected)
    (record,) = _simulator.driver.take_launches()
    assert (record["grid"], record["block"], record["cluster"]) == ((4, 1, 1), (32, 1, 1), (1, 1, 1))
    outcome = record["outcome"]
    assert not outcome.reports
    assert len(outcome.executed) == len(outcome.kernel.text)
    assert outcome.counters["global_write_bytes"] == 400
    assert _simulator.driver.take_launches() == []


def test_parameters_as_one_block(driver: Driver) -> None:
    arguments, out, expected = _add_arguments(driver)
    block = b"".join(bytes(argument) for argument in arguments)
    function = driver.kernel("add")
    buffer, size = ctypes.create_string_buffer(block, len(block)), c_size_t(len(block))
    extra = (c_void_p * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), 0)
    arrays = (c_void_p * 4)(*(ctypes.addressof(argument) for argument in arguments))
    launch = (function, 4, 1, 1, 32, 1, 1, 0, None)
    assert driver.cuLaunchKernel(*launch, arrays, extra) == INVALID_VALUE
    assert driver.cuLaunchKernel(*launch, None, None) == INVALID_VALUE
    assert driver.cuLaunchKernel(*launch, (c_void_p * 4)(), None) == INVALID_VALUE
    assert driver.cuLaunchKernel(*launch, None, extra) == SUCCESS, _words()
    np.testing.assert_array_equal(out, expected)
    size.value -= 1
    assert driver.cuLaunchKernel(*launch, None, extra) == INVALID_VALUE


@pytest.mark.parametrize(("broken", "status"), [("unregistered", ILLEGAL_ADDRESS), ("misaligned", MISALIGNED_ADDRESS)])
def test_a_failed_kernel_does_not_spoil_the_next(driver: Driver, broken: str, status: int) -> None:
    arguments, out, expected = _add_arguments(driver)
    kernel = driver.kernel("add")
    good = arguments[0].value
    if broken == "unregistered":
        assert driver.cuMemHostUnregister(c_void_p(good)) == SUCCESS
    else:
        arguments[0].value = good + 2
    assert driver.launch(kernel, *arguments, grid=(4, 1, 1)) == status
    (record,) = _simulator.driver.take_launches()
    assert record["status"] == status
    assert any(report.fatal for report in record["outcome"].reports)
    arguments[0].value = good
    if broken == "unregistered":
        assert driver.register(arguments[0].kept[0]) == SUCCESS
    assert driver.launch(kernel, *arguments, grid=(4, 1, 1)) == SUCCESS
    np.testing.assert_array_equal(out, expected)


def test_read_only_memory_is_not_written(driver: Driver) -> None:
    arguments, out, _ = _add_arguments(driver)
    assert driver.cuMemHostUnregister(c_void_p(out.ctypes.data)) == SUCCESS
    assert driver.register(out, 8) == SUCCESS
    assert driver.launch(driver.kernel("add"), *arguments, grid=(4, 1, 1)) == ILLEGAL_ADDRESS
    assert not out.any()


def test_an_endless_kernel_times_out(driver: Driver) -> None:
    _simulator.driver.set_options({"max_instructions": 1000})
    assert driver.launch(driver.kernel("endless")) == LAUNCH_TIMEOUT


def test_launches_from_several_threads(driver: Driver) -> None:
    kernel, context = driver.kernel("add"), c_void_p()
    assert driver.cuCtxGetCurrent(byref(context)) == SUCCESS
    jobs = [_add_arguments(driver, 1000 + i) for i in range(4)]
    failures: list[str] = []

    def work(arguments: list[Any]) -> None:
        driver.cuCtxSetCurrent(context)
        for _ in range(20):
            if driver.launch(kernel, *arguments, grid=(40, 1, 1)) != SUCCESS:
                failures.append(_words())

    threads = [threading.Thread(target=work, args=(arguments,)) for arguments, _, _ in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for _, out, expected in jobs:
        np.testing.assert_array_equal(out, expected)
    assert len(_simulator.driver.take_launches()) == 80


# --- Memory, tensor maps ---


def test_memory(driver: Driver) -> None:
    address = c_uint64()
    assert driver.cuMemAlloc_v2(byref(address), c_size_t(0)) == INVALID_VALUE
    assert driver.cuMemAlloc_v2(byref(address), c_size_t(1 << 50)) == OUT_OF_MEMORY
    assert driver.cuMemAlloc_v2(byref(address), c_size_t(400)) == SUCCESS
    assert address.value % 256 == 0
    host = np.zeros(100, np.float32)
    pointer = c_void_p(host.ctypes.data)
    assert driver.cuMemcpyDtoH_v2(pointer, address, c_size_t(400)) == SUCCESS
    assert np.isnan(host).all()  # what nobody wrote shows
    host[:] = np.arange(100)
    assert driver.cuMemcpyHtoD_v2(address, pointer, c_size_t(400)) == SUCCESS
    assert driver.cuMemsetD32_v2(c_uint64(address.value + 8), 0, c_size_t(2)) == SUCCESS
    assert driver.cuMemsetD8Async(c_uint64(address.value + 16), 0xFF, c_size_t(4), None) == SUCCESS
    assert driver.cuMemcpyDtoHAsync_v2(pointer, address, c_size_t(400), None) == SUCCESS
    np.testing.assert_array_equal(host[:7], [0, 1, 0, 0, np.nan, 5, 6])
    for status in (
        driver.cuMemcpyDtoH_v2(pointer, address, c_size_t(401)),
        driver.cuMemcpyHtoD_v2(c_uint64(address.value - 1), pointer, c_size_t(4)),
        driver.cuMemcpyDtoH_v2(None, address, c_size_t(4)),
        driver.cuMemsetD32_v2(c_uint64(address.value + 2), 0, c_size_t(1)),
        driver.cuMemsetD32_v2(address, 0, c_size_t(1 << 63)),
        driver.cuMemFree_v2(c_uint64(address.value + 4)),
    ):
        assert status == INVALID_VALUE
    assert driver.cuMemFree_v2(address) == SUCCESS
    assert driver.cuMemFree_v2(address) == INVALID_VALUE


def test_host_registration(driver: Driver) -> None:
    array = np.zeros(64, np.uint8)
    assert driver.register(array, 64) == INVALID_VALUE
    assert driver.register(array[:0]) == INVALID_VALUE
    assert driver.register(array[:32], 3) == SUCCESS
    assert driver.register(array[16:]) == ALREADY_REGISTERED
    assert driver.register(array[32:]) == SUCCESS
    assert driver.cuMemHostUnregister(c_void_p(array.ctypes.data + 1)) == NOT_REGISTERED
    assert driver.cuMemHostUnregister(c_void_p(array.ctypes.data)) == SUCCESS
    assert driver.cuMemHostUnregister(c_void_p(array.ctypes.data)) == NOT_REGISTERED


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, SUCCESS),
        ({"map": 32}, INVALID_VALUE),
        ({"type": 13}, NOT_SUPPORTED),
        ({"type": 16}, INVALID_VALUE),
        ({"rank": 0}, INVALID_VALUE),
        ({"rank": 6}, INVALID_VALUE),
        ({"address": 8}, INVALID_VALUE),
        ({"stride": 24}, INVALID_VALUE),
        ({"box": (64, 257)}, INVALID_VALUE),
        ({"box": (65, 8)}, INVALID_VALUE),
        ({"element_stride": (1, 9)}, INVALID_VALUE),
        ({"swizzle": 7}, INVALID_VALUE),
        ({"box": (128, 8)}, INVALID_VALUE),  # 256 bytes a row, the swizzle spans 128
    ],
)
def test_tensor_maps(driver: Driver, changes: dict[str, Any], status: int) -> None:
    given = {"map": 0, "type": 9, "rank": 2, "address": 0, "stride": 256, "box": (64, 8), "element_stride": (1, 1)}
    given |= {"swizzle": 3, **changes}
    storage = (c_ubyte * 512)()
    place = (ctypes.addressof(storage) + 127) // 128 * 128
    argument = (
        c_void_p(place + given["map"]),
        given["type"],
        given["rank"],
        c_void_p((1 << 20) + given["address"]),
        (c_uint64 * 5)(128, 64, 1, 1, 1),
        (c_uint64 * 4)(given["stride"], 1 << 16, 1 << 16, 1 << 16),
        (c_uint * 5)(*given["box"], 1, 1, 1),
        (c_uint * 5)(*given["element_stride"], 1, 1, 1),
        0,
        given["swizzle"],
        2,
        0,
    )
    assert driver.cuTensorMapEncodeTiled(*argument) == status, _words()
    assert any(storage) == (status == SUCCESS)
    for position in (0, 4, 5, 6, 7):
        missing = list(argument)
        missing[position] = None
        assert driver.cuTensorMapEncodeTiled(*missing) != SUCCESS


# --- The session and the environment ---


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
    assert driver.load(_ptx(_entry("k"), target="sm_90a"))[0] == SUCCESS


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
    assert words in _words()
    if status == SUCCESS:
        expected = environment.get("JAX_FA4_SIMULATOR_DEVICE", "b200")
        assert _simulator.driver.device() == expected
        assert _simulator.driver.options()["seed"] == (7 if "JAX_FA4_SIMULATOR_OPTIONS" in environment else 0)


# --- The library as a file ---


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
