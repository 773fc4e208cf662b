"""The stand-in driver as a host sees it: its calls, the numbers of their results, and kernels to launch."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import byref, c_char_p, c_size_t, c_uint, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import jax_fa4_simulator
import numpy as np
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


def entry(name: str, body: str = "  ret;", directives: str = "", parameters: str = "") -> str:
    parameters, body = parameters.format(name=name), body.replace("{name}", name)
    return f".visible .entry {name}({parameters}) {directives}\n{{\n{body}\n}}\n"


def ptx(*entries: str, target: str = "sm_100a") -> bytes:
    return f".version 8.7\n.target {target}\n.address_size 64\n\n{''.join(entries)}".encode()


KERNELS = ptx(
    entry("add", ADD, parameters=ADD_PARAMETERS),
    entry("empty"),
    entry("exact", directives=".reqntid 64, 1, 1"),
    entry("narrow", directives=".maxntid 256, 1, 1"),
    entry("holds", "  .shared .align 16 .b8 kept[1024];\n  ret;"),
    entry("endless", "again:\n  bra again;"),
    entry("pair", "  tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;\n  ret;"),
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


def last_words() -> str:
    return str(_simulator.driver.last_error())


def add_arguments(driver: Driver, count: int = 100) -> tuple[list[Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    a, b, out = np.arange(count, dtype=np.uint32), np.full(count, 7, np.uint32), np.zeros(count, np.uint32)
    for array in (a, b, out):
        assert driver.register(array) == SUCCESS
    arrays = [c_uint64(array.ctypes.data) for array in (a, b, out)]
    arrays[0].kept = (a, b, out)  # type: ignore[attr-defined]
    return [*arrays, c_uint(count)], out, a + b
