"""Tensor maps: what `cuTensorMapEncodeTiled` takes, by default read off an array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _simulator
from .memory import Memory

_TYPES = {
    "uint8": 0, "uint16": 1, "uint32": 2, "int32": 3, "uint64": 4, "int64": 5, "float16": 6, "float32": 7, "float64": 8,
    "bfloat16": 9, "float32_ftz": 10, "tfloat32": 11, "tfloat32_ftz": 12,
}  # fmt: skip
_SWIZZLES = {
    "none": 0, "32B": 1, "64B": 2, "128B": 3, "128B_ATOM_32B": 4, "128B_ATOM_32B_FLIP_8B": 5, "128B_ATOM_64B": 6,
}  # fmt: skip
_INTERLEAVES = {"none": 0, "16B": 1, "32B": 2}
_PROMOTIONS = {"none": 0, "64B": 1, "128B": 2, "256B": 3}
_FILLS = {"zero": 0, "nan": 1}


def _number(table: dict[str, int], what: str, name: str) -> int:
    if name not in table:
        raise ValueError(f"a tensor map's {what} is {name!r}; there are {', '.join(table)}")
    return table[name]


@dataclass
class TensorMap:
    """A tiled tensor map; all lists are innermost dimension first, as in the driver API.

    tensor: the array whose elements are copied, or the device address of element 0.
    box: elements copied along each dimension.
    dtype, extents, strides: those of the array when absent; strides are bytes of dimensions 1 and up.
    """

    tensor: NDArray[Any] | int
    box: Sequence[int]
    dtype: str | None = None
    extents: Sequence[int] | None = None
    strides: Sequence[int] | None = None
    element_strides: Sequence[int] | None = None
    swizzle: str = "none"
    interleave: str = "none"
    l2_promotion: str = "none"
    fill: str = "zero"

    def encode(self, memory: Memory) -> bytes:
        """The 128 bytes that a kernel takes; ValueError says which rule of the driver API they would break."""
        dtype, extents, strides = self.dtype, self.extents, self.strides
        if isinstance(self.tensor, np.ndarray):
            address = memory.place(self.tensor)
            dtype = self.tensor.dtype.name if dtype is None else dtype
            extents = self.tensor.shape[::-1] if extents is None else extents
            strides = self.tensor.strides[::-1][1:] if strides is None else strides
            if any(stride < 0 for stride in strides):
                raise ValueError(f"a tensor map has no negative strides; the array's are {self.tensor.strides}")
        else:
            address = self.tensor
        if dtype is None or extents is None or strides is None:
            raise ValueError("a tensor map of an address needs dtype, extents and strides")
        return _simulator.encode_tensor_map(
            type=_number(_TYPES, "dtype", dtype),
            address=address,
            extent=list(extents),
            stride=list(strides),
            box=list(self.box),
            element_stride=[1] * len(extents) if self.element_strides is None else list(self.element_strides),
            interleave=_number(_INTERLEAVES, "interleave", self.interleave),
            swizzle=_number(_SWIZZLES, "swizzle", self.swizzle),
            l2_promotion=_number(_PROMOTIONS, "l2_promotion", self.l2_promotion),
            fill=_number(_FILLS, "fill", self.fill),
        )
