"""Calls of the handler of platform CUDA without XLA: own memory, own streams, on any driver.

XLA gives a GPU one stream; here there are several, some of which are captured, and a process that launches nothing but
our kernels, which compute-sanitizer can watch.
"""

from __future__ import annotations

import ctypes
import dataclasses
import inspect
from ctypes import byref, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import gpu_call
import jax
import ml_dtypes
import numpy as np
from cases import Case
from gpu_call import BF16, EXECUTE, F16, F32, F64, INITIALIZE, PRED, S32, GpuCall

import jax_fa4
from jax_fa4 import calls, manifest
from jax_fa4.attention import prepare as checked

NUMBERS = {
    np.dtype(np.bool_): PRED, np.dtype(np.int32): S32, np.dtype(np.float16): F16, np.dtype(np.float32): F32,
    np.dtype(np.float64): F64, np.dtype(ml_dtypes.bfloat16): BF16,
}  # fmt: skip
NON_BLOCKING = 1


class Driver:
    """The first GPU of a driver: memory and streams."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.context = c_void_p()
        self.ok("cuInit", 0)
        self.ok("cuDevicePrimaryCtxRetain", byref(self.context), 0)

    def ok(self, call: str, *arguments: Any) -> None:
        """Makes a call, which must succeed."""
        status = getattr(self.library, call)(*arguments)
        if status:
            raise RuntimeError(f"{call}: CUresult {status}")

    def __enter__(self) -> Driver:
        self.ok("cuCtxPushCurrent_v2", self.context)
        return self

    def __exit__(self, *_: object) -> None:
        self.ok("cuCtxPopCurrent_v2", byref(c_void_p()))

    def stream(self) -> c_void_p:
        """A new one, which does not wait for the default stream."""
        stream = c_void_p()
        with self:
            self.ok("cuStreamCreate", byref(stream), NON_BLOCKING)
        return stream

    def synchronize(self, stream: c_void_p) -> None:
        """Waits for what is in the stream."""
        with self:
            self.ok("cuStreamSynchronize", stream)

    def allocate(self, count: int) -> int:
        """The address of so many bytes, all of them ones: NaN in every float type."""
        address = c_uint64()
        with self:
            self.ok("cuMemAlloc_v2", byref(address), c_size_t(max(count, 1)))
            self.ok("cuMemsetD8_v2", address, 0xFF, c_size_t(max(count, 1)))
        return address.value

    def free(self, address: int) -> None:
        with self:
            self.ok("cuMemFree_v2", c_uint64(address))

    def upload(self, array: np.ndarray[Any, Any]) -> int:
        """The address of a copy."""
        address = self.allocate(array.nbytes)
        self.write(address, array)
        return address

    def write(self, address: int, array: np.ndarray[Any, Any]) -> None:
        array = np.ascontiguousarray(array)
        if array.nbytes:
            with self:
                self.ok("cuMemcpyHtoD_v2", c_uint64(address), c_void_p(array.ctypes.data), c_size_t(array.nbytes))

    def download(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        array = np.empty(shape, dtype)
        if array.nbytes:
            with self:
                self.ok("cuMemcpyDtoH_v2", c_void_p(array.ctypes.data), c_uint64(address), c_size_t(array.nbytes))
        return array


@dataclasses.dataclass
class Prepared:
    """A case's arrays in a driver's memory, and its call."""

    driver: Driver
    call: GpuCall
    output: tuple[int, tuple[int, ...], Any]
    log_sum_exp: tuple[int, tuple[int, ...], Any]

    def make(self, stage: int, stream: c_void_p) -> None:
        """One stage of the call."""
        code, words = self.call.make(stage, stream)
        if code:
            raise RuntimeError(words)

    def free(self) -> None:
        """Gives all arrays back."""
        for row in self.call.arrays.values():
            self.driver.free(row.data)

    def results(self) -> tuple[Any, Any]:
        """Output and log-sum-exp in the public layout."""
        output, log_sum_exp = (self.driver.download(*array)[0] for array in (self.output, self.log_sum_exp))
        return output, np.swapaxes(log_sum_exp, 1, 2)

    def run(self, stream: c_void_p) -> tuple[Any, Any]:
        """Both stages, and the results."""
        self.make(INITIALIZE, stream)
        self.make(EXECUTE, stream)
        self.driver.synchronize(stream)
        return self.results()


def prepare(driver: Driver, case: Case) -> Prepared:
    """The call as the public one would make it, with one more batch axis, as its primitive has."""
    bound = inspect.signature(jax_fa4.attention).bind(**case.arrays(), **case.arguments())
    bound.apply_defaults()
    with jax.default_device(jax.devices("cpu")[0]):
        spec, operands = checked(bound.arguments)
    manifest.variants()
    given = {name: np.asarray(array)[None] for name, array in operands._asdict().items() if array is not None}
    results = calls.forward_results(spec, operands._replace(**given))
    rows = {name: gpu_call.array(NUMBERS[a.dtype], a.shape, driver.upload(a)) for name, a in given.items()}
    places = []
    for name, (shape, dtype) in zip(("output", "log_sum_exp"), results, strict=True):
        dtype = np.dtype(dtype)
        address = driver.allocate(int(np.prod(shape)) * dtype.itemsize)
        rows[name] = gpu_call.array(NUMBERS[dtype], shape, address)
        places.append((address, tuple(shape), dtype))
    left, right = (-1 if side is None else side for side in spec.window)
    call = GpuCall(rows, scale=spec.scale, logits_soft_cap=spec.logits_soft_cap or 0.0, window=(left, right))
    return Prepared(driver, call, *places)
