"""Launches test kernels on a driver's GPU, with the arguments that the simulator's `run` takes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_uint, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import raw

sys.path.insert(0, str(Path(__file__).parents[1] / "simulator"))

from driver_host import CLUSTER, MAX_DYNAMIC_SHARED, LaunchAttribute, LaunchConfig
from jax_fa4_simulator import TensorMap

TYPES = {"bfloat16": 9, "float32": 7, "float16": 6}
SWIZZLES = {"none": 0, "32B": 1, "64B": 2, "128B": 3}


def owner_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array that a view looks into."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class Launcher(raw.Driver):
    """Copies arrays there and back around each launch."""

    def launch(
        self, image: bytes, entry: str, *, grid: Sequence[int], block: Sequence[int],
        cluster: Sequence[int] = (1, 1, 1), dynamic_shared: int = 0, arguments: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        """What the kernel writes is in the arrays afterwards.

        image: a cubin, or PTX, which the driver compiles.
        """
        copies: dict[int, tuple[np.ndarray[Any, Any], int]] = {}
        values = [self._value(argument, copies) for argument in arguments]
        with self:
            module, function = c_void_p(), c_void_p()
            self.ok("cuModuleLoadData", byref(module), c_char_p(image))
            self.ok("cuModuleGetFunction", byref(function), module, entry.encode())
            self.ok("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED, dynamic_shared)
            self._launch(function, values, (*grid, 1, 1)[:3], (*block, 1, 1)[:3], cluster, dynamic_shared)
            self.ok("cuCtxSynchronize")
            self.ok("cuModuleUnload", module)
        for array, address in copies.values():
            if array.flags.writeable:
                array[...] = self.download(address, array.shape, array.dtype)
            self.free(address)

    def _launch(
        self, function: c_void_p, values: list[Any], grid: Sequence[int], block: Sequence[int], cluster: Sequence[int],
        dynamic_shared: int,
    ) -> None:  # fmt: skip
        attribute = LaunchAttribute(id=CLUSTER)
        attribute.value[:3] = cluster
        config = LaunchConfig(
            (c_uint * 3)(*grid), (c_uint * 3)(*block), dynamic_shared, None, ctypes.pointer(attribute),
            int(tuple(cluster) != (1, 1, 1)),
        )  # fmt: skip
        pointers = (c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self.ok("cuLaunchKernelEx", byref(config), function, pointers, None)

    def _value(self, argument: Any, copies: dict[int, tuple[np.ndarray[Any, Any], int]]) -> Any:
        if isinstance(argument, np.ndarray):
            return c_uint64(self._place(argument, copies))
        if isinstance(argument, TensorMap):
            return self._map(argument, copies)
        number = np.asarray(argument)
        return (ctypes.c_char * number.nbytes).from_buffer_copy(number.tobytes())

    def _place(self, array: np.ndarray[Any, Any], copies: dict[int, tuple[np.ndarray[Any, Any], int]]) -> int:
        owner = owner_of(array)
        if id(owner) not in copies:
            copies[id(owner)] = owner, self.upload(owner)
        return copies[id(owner)][1] + array.ctypes.data - owner.ctypes.data

    def _map(self, wanted: TensorMap, copies: dict[int, tuple[np.ndarray[Any, Any], int]]) -> Any:
        array = wanted.tensor
        assert isinstance(array, np.ndarray)
        rank = array.ndim
        memory = (ctypes.c_char * 192)()
        start = -ctypes.addressof(memory) % 64  # where a map may lie
        encoded = (ctypes.c_char * 128).from_buffer(memory, start)
        extents, strides = array.shape[::-1], array.strides[::-1][1:]
        self.ok(
            "cuTensorMapEncodeTiled", byref(encoded), TYPES[array.dtype.name], rank,
            c_void_p(self._place(array, copies)), (c_uint64 * rank)(*extents), (c_uint64 * max(rank - 1, 1))(*strides),
            (c_uint32 * rank)(*wanted.box), (c_uint32 * rank)(*[1] * rank), 0, SWIZZLES[wanted.swizzle], 0, 0,
        )  # fmt: skip
        return encoded
