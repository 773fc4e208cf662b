"""The stand-in driver: launches, memory and tensor maps; every documented error, and a kernel that works."""

from __future__ import annotations

import ctypes
import threading
from ctypes import byref, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from typing import Any

import numpy as np
import pytest
from driver_host import (
    ALREADY_REGISTERED,
    ILLEGAL_ADDRESS,
    INVALID_CLUSTER_SIZE,
    INVALID_CONTEXT,
    INVALID_HANDLE,
    INVALID_VALUE,
    LAUNCH_TIMEOUT,
    MAX_DYNAMIC_SHARED,
    MISALIGNED_ADDRESS,
    NON_PORTABLE_CLUSTER,
    NOT_REGISTERED,
    NOT_SUPPORTED,
    OUT_OF_MEMORY,
    SERIALIZATION,
    SUCCESS,
    Driver,
    add_arguments,
    last_words,
)
from jax_fa4_simulator import _simulator


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
    assert driver.launch(handle, **options) == status, last_words()
    assert words in last_words()
    (record,) = _simulator.driver.take_launches()
    assert record["kernel"] == kernel
    assert record["status"] == status
    assert words in record["words"]
    assert (record["outcome"] is None) == (status != SUCCESS)


def test_larger_limits_are_opted_in(driver: Driver) -> None:
    kernel = driver.kernel("empty")
    assert driver.cuKernelSetAttribute(MAX_DYNAMIC_SHARED, 232448, kernel, 0) == SUCCESS
    assert driver.launch(kernel, shared=232448) == SUCCESS, last_words()
    assert driver.cuKernelSetAttribute(NON_PORTABLE_CLUSTER, 1, kernel, 0) == SUCCESS
    assert driver.launch(kernel, grid=(16, 1, 1), cluster=(16, 1, 1)) == SUCCESS, last_words()
    assert driver.launch(kernel, grid=(32, 1, 1), cluster=(32, 1, 1)) == INVALID_CLUSTER_SIZE


def test_launch_without_a_context(raw: Driver) -> None:
    assert raw.cuInit(0) == SUCCESS
    assert raw.launch(raw.kernel("empty")) == INVALID_CONTEXT
    assert raw.cuLaunchKernelEx(None, None, None, None) == INVALID_VALUE


def test_a_kernel_adds(driver: Driver) -> None:
    arguments, out, expected = add_arguments(driver)
    kernel = driver.kernel("add")
    assert driver.launch(kernel, *arguments, grid=(4, 1, 1)) == SUCCESS, last_words()
    np.testing.assert_array_equal(out, expected)
    (record,) = _simulator.driver.take_launches()
    assert (record["grid"], record["block"], record["cluster"]) == ((4, 1, 1), (32, 1, 1), (1, 1, 1))
    outcome = record["outcome"]
    assert not outcome.reports
    assert len(outcome.executed) == len(outcome.kernel.text)
    assert outcome.counters["global_write_bytes"] == 400
    assert _simulator.driver.take_launches() == []


def test_parameters_as_one_block(driver: Driver) -> None:
    arguments, out, expected = add_arguments(driver)
    block = b"".join(bytes(argument) for argument in arguments)
    function = driver.kernel("add")
    buffer, size = ctypes.create_string_buffer(block, len(block)), c_size_t(len(block))
    extra = (c_void_p * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), 0)
    arrays = (c_void_p * 4)(*(ctypes.addressof(argument) for argument in arguments))
    launch = (function, 4, 1, 1, 32, 1, 1, 0, None)
    assert driver.cuLaunchKernel(*launch, arrays, extra) == INVALID_VALUE
    assert driver.cuLaunchKernel(*launch, None, None) == INVALID_VALUE
    assert driver.cuLaunchKernel(*launch, (c_void_p * 4)(), None) == INVALID_VALUE
    assert driver.cuLaunchKernel(*launch, None, extra) == SUCCESS, last_words()
    np.testing.assert_array_equal(out, expected)
    size.value -= 1
    assert driver.cuLaunchKernel(*launch, None, extra) == INVALID_VALUE


@pytest.mark.parametrize(("broken", "status"), [("unregistered", ILLEGAL_ADDRESS), ("misaligned", MISALIGNED_ADDRESS)])
def test_a_failed_kernel_does_not_spoil_the_next(driver: Driver, broken: str, status: int) -> None:
    arguments, out, expected = add_arguments(driver)
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
    arguments, out, _ = add_arguments(driver)
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
    jobs = [add_arguments(driver, 1000 + i) for i in range(4)]
    failures: list[str] = []

    def work(arguments: list[Any]) -> None:
        driver.cuCtxSetCurrent(context)
        for _ in range(20):
            if driver.launch(kernel, *arguments, grid=(40, 1, 1)) != SUCCESS:
                failures.append(last_words())

    threads = [threading.Thread(target=work, args=(arguments,)) for arguments, _, _ in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for _, out, expected in jobs:
        np.testing.assert_array_equal(out, expected)
    assert len(_simulator.driver.take_launches()) == 80


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
    assert driver.cuTensorMapEncodeTiled(*argument) == status, last_words()
    assert any(storage) == (status == SUCCESS)
    for position in (0, 4, 5, 6, 7):
        missing = list(argument)
        missing[position] = None
        assert driver.cuTensorMapEncodeTiled(*missing) != SUCCESS
