"""Device memory for the arrays of a launch."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

ALIGNMENT = 256  # of what the driver's own allocator returns


def byte_bounds(array: NDArray[Any]) -> tuple[int, int]:
    """Addresses of an array's first byte and of the byte after its last."""
    low = high = array.ctypes.data
    for extent, stride in zip(array.shape, array.strides, strict=True):
        if extent == 0:
            return low, low
        if stride < 0:
            low += (extent - 1) * stride
        else:
            high += (extent - 1) * stride
    return low, high + array.itemsize


def empty(shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """An array of zeros that kernels use where it is: its `.ctypes.data` is its device address."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, max(count * dtype.itemsize, 1)), dtype, count).reshape(shape)


def _owner(array: NDArray[Any]) -> NDArray[Any]:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@dataclass
class _Copy:
    host: NDArray[np.uint8]
    device: NDArray[np.uint8]
    writable: bool


class Memory:
    """Gives arrays addresses, as an allocation of the driver would.

    The array that owns the memory starts at a multiple of 256 bytes and its views keep their distance from it: an
    owner that does not is copied, and copied back after the launch. A kernel may touch the bytes that placed arrays
    span, and no others.
    """

    def __init__(self) -> None:
        self._copies: dict[tuple[int, int], _Copy] = {}
        self._spans: list[tuple[int, int, bool]] = []
        self._kept: list[NDArray[Any]] = []

    def place(self, array: NDArray[Any]) -> int:
        """Returns the array's device address."""
        if array.dtype.hasobject:
            raise TypeError(f"an array of dtype {array.dtype} has no memory that a device could read")
        owner = _owner(array)
        start, end = byte_bounds(owner)
        shift = 0
        if start % ALIGNMENT and end > start:
            copy = self._copies.get((start, end))
            if copy is None:
                host = np.frombuffer((ctypes.c_uint8 * (end - start)).from_address(start), np.uint8)
                copy = self._copies[start, end] = _Copy(host, empty(end - start, np.uint8), owner.flags.writeable)
                copy.device[:] = host
            shift = copy.device.ctypes.data - start
        self._kept.append(array)
        low, high = byte_bounds(array)
        if high > low:
            self._spans.append((low + shift, high + shift, bool(array.flags.writeable)))
        return int(array.ctypes.data) + shift

    def allocations(self) -> list[tuple[int, int, bool]]:
        """Address, bytes and whether it may be written, of what the kernel may touch; arrays that overlap are one."""
        merged: list[tuple[int, int, bool]] = []
        for low, high, writable in sorted(self._spans):
            if merged and low < merged[-1][1]:
                before = merged[-1]
                merged[-1] = (before[0], max(high, before[1]), writable or before[2])
            else:
                merged.append((low, high, writable))
        return [(low, high - low, writable) for low, high, writable in merged]

    def take_back(self) -> None:
        """Copies what kernels wrote into the arrays."""
        for copy in self._copies.values():
            if copy.writable:
                copy.host[:] = copy.device
