"""Tensor maps: every rule that cuTensorMapEncodeTiled documents, the walk over a box, the manual's swizzle tables."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from jax_fa4_simulator import _simulator

UINT8, UINT32, FLOAT16, FLOAT32, BFLOAT16, TFLOAT32 = 0, 2, 6, 7, 9, 11
NONE, B32, B64, B128, ATOM_32B, ATOM_32B_FLIP_8B, ATOM_64B = range(7)

# A map that breaks no rule; every refusal below changes one thing of it.
GOOD: dict[str, Any] = {
    "type": BFLOAT16,
    "address": 1 << 20,
    "extent": [128, 512, 2],
    "stride": [512, 256],
    "box": [64, 128, 1],
    "element_stride": [1, 1, 1],
}


def _encode(**changes: Any) -> bytes:
    return _simulator.encode_tensor_map(**{**GOOD, **changes})


ACCEPTED: list[dict[str, Any]] = [
    {},
    {"swizzle": B128},
    {"swizzle": B64, "box": [32, 1, 1]},
    {"swizzle": B32, "box": [16, 1, 1]},
    {"extent": [1 << 32, 1, 1]},
    {"stride": [(1 << 40) - 16, 0]},
    {"box": [256, 256, 256]},
    {"element_stride": [1, 8, 2]},
    {"interleave": 1},
    {"interleave": 2, "swizzle": B32},
    {"fill": 1},
    {"l2_promotion": 3},
    {"type": UINT8, "box": [16, 1, 1]},
    {"extent": [8], "stride": [], "box": [8], "element_stride": [1]},
    {"extent": [8] * 5, "stride": [16] * 4, "box": [8] * 5, "element_stride": [1] * 5},
]

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"type": 13}, "tensorDataType is 13"),
    ({"extent": [], "stride": [], "box": [], "element_stride": []}, "tensorRank is 0"),
    ({"extent": [8] * 6, "stride": [16] * 5, "box": [8] * 6, "element_stride": [1] * 6}, "tensorRank is 6"),
    ({"interleave": 1, "extent": [8, 8], "stride": [16], "box": [8, 8], "element_stride": [1, 1]}, "tensorRank is 2"),
    ({"address": (1 << 20) + 8}, "globalAddress .* multiple of 16"),
    ({"address": (1 << 20) + 16, "interleave": 2, "swizzle": B32}, "globalAddress .* multiple of 32"),
    ({"extent": [128, 0, 2]}, r"globalDim\[1\] is 0"),
    ({"extent": [128, 512, (1 << 32) + 1]}, r"globalDim\[2\]"),
    ({"stride": [512, 264]}, r"globalStrides\[1\] is 264: .* multiple of 16"),
    ({"stride": [512, 272], "interleave": 2, "swizzle": B32}, r"globalStrides\[1\] is 272: .* multiple of 32"),
    ({"stride": [1 << 40, 256]}, r"globalStrides\[0\] .* less than 2\^40"),
    ({"box": [64, 0, 1]}, r"boxDim\[1\] is 0"),
    ({"box": [64, 257, 1]}, r"boxDim\[1\] is 257"),
    ({"box": [4, 1, 1]}, r"boxDim\[0\] of 4 BFLOAT16 is 8 bytes: it must be a multiple of 16"),
    ({"box": [128, 1, 1], "swizzle": B128}, "256 bytes: with this swizzle it must be 128"),
    ({"box": [64, 1, 1], "swizzle": B64}, "128 bytes: with this swizzle it must be 64"),
    ({"box": [32, 1, 1], "swizzle": B32}, "64 bytes: with this swizzle it must be 32"),
    ({"element_stride": [1, 0, 1]}, r"elementStrides\[1\] is 0"),
    ({"element_stride": [1, 1, 9]}, r"elementStrides\[2\] is 9"),
    ({"interleave": 3}, "interleave is 3"),
    ({"interleave": 2, "swizzle": B64}, "interleave 32B needs swizzle 32B"),
    ({"swizzle": 7}, "swizzle is 7"),
    ({"l2_promotion": 4}, "l2Promotion is 4"),
    ({"fill": 2}, "oobFill is 2"),
    ({"fill": 1, "type": UINT32}, "oobFill .* floating-point"),
]

NOT_MODELLED: list[tuple[dict[str, Any], str]] = [
    ({"interleave": 1}, "interleaved"),
    ({"fill": 1}, "NaN"),
    ({"element_stride": [1, 2, 1]}, r"elementStrides\[1\] is 2"),
    ({"type": TFLOAT32, "box": [32, 1, 1]}, "TFLOAT32"),
    ({"swizzle": ATOM_32B_FLIP_8B}, "FLIP_8B"),
    ({"swizzle": B128, "box": [32, 1, 1]}, r"boxDim\[0\] is 64 bytes"),
    ({"box": [256, 256, 256]}, "more than shared memory"),
]


@pytest.mark.parametrize("changes", ACCEPTED, ids=str)
def test_a_map_that_breaks_no_rule_is_encoded(changes: dict[str, Any]) -> None:
    assert len(_encode(**changes)) == 128


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=str)
def test_a_broken_rule_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _encode(**changes)


@pytest.mark.parametrize(("changes", "words"), NOT_MODELLED, ids=str)
def test_what_the_driver_allows_and_no_copy_does_is_refused_by_the_walk(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _simulator.walk_tensor_map(_encode(**changes), [0, 0, 0])


def test_the_first_element_stride_is_ignored_without_interleave() -> None:
    assert _simulator.walk_tensor_map(_encode(element_stride=[2, 1, 1]), [0, 0, 0])


@pytest.mark.parametrize("changed", [0, 16, 64, 120])
def test_foreign_or_overwritten_bytes_are_not_a_map(changed: int) -> None:
    image = bytearray(_encode())
    image[changed : changed + 8] = b"\xff" * 8
    with pytest.raises(ValueError, match=r"not a tensor map|overwritten"):
        _simulator.walk_tensor_map(bytes(image), [0, 0, 0])


# What a load must bring, element by element: the tensor's value, or zero where a coordinate is out of bounds.
def _loaded(tensor: np.ndarray, box: list[int], start: list[int]) -> np.ndarray:
    image = np.zeros(box[::-1], tensor.dtype)
    for place in np.ndindex(*image.shape):
        at = [first + offset for first, offset in zip(start[::-1], place, strict=True)]
        if all(0 <= index < extent for index, extent in zip(at, tensor.shape, strict=True)):
            image[place] = tensor[tuple(at)]
    return image


# (extent, padding of the rows in elements, box), innermost first.
BOXES = [
    ([40], 0, [16]),
    ([40, 7], 8, [16, 4]),
    ([24, 5, 3], 0, [8, 2, 2]),
    ([19, 3, 2, 2], 5, [8, 2, 1, 3]),
    ([9, 2, 2, 2, 2], 7, [8, 2, 1, 2, 1]),
    ([3, 4], 5, [16, 2]),
]


@pytest.mark.parametrize(("extent", "padding", "box"), BOXES, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int64])
def test_the_walk_is_the_box_with_zeros_outside(extent: list[int], padding: int, box: list[int], dtype: type) -> None:
    size = np.dtype(dtype).itemsize
    box = [max(box[0], 16 // size), *box[1:]]
    row = -(-(extent[0] + padding) * size // 16) * 16 // size
    pitched = np.arange(1, row * np.prod(extent[1:], dtype=int) + 1).astype(dtype).reshape([*extent[:0:-1], row])
    memory = np.zeros(pitched.nbytes + 16, np.uint8)
    skip = -memory.ctypes.data % 16
    memory[skip : skip + pitched.nbytes] = pitched.reshape(-1).view(np.uint8)
    base = memory.ctypes.data + skip
    tensor = pitched[..., : extent[0]]
    encoded = _simulator.encode_tensor_map(
        type={1: 0, 2: 1, 4: 7, 8: 5}[size],
        address=base,
        extent=extent,
        stride=list(pitched.strides[-2::-1]),
        box=box,
        element_stride=[1] * len(box),
    )
    edges = [sorted({-b, -b + 1, -1, 0, 1, e - b, e - 1, e}) for b, e in zip(box, extent, strict=True)]
    starts = list(itertools.product(*edges))
    for start in np.random.default_rng(0).permutation(starts)[:60].tolist():
        image = np.zeros(int(np.prod(box)) * size, np.uint8)
        end = 0
        for address, shared, count in _simulator.walk_tensor_map(encoded, start):
            assert shared == end and count and shared // 16 == (shared + count - 1) // 16
            end = shared + count
            if address:
                image[shared:end] = memory[address - memory.ctypes.data :][:count]
        assert end == image.size
        np.testing.assert_array_equal(image.view(dtype).reshape(box[::-1]), _loaded(tensor, box, start))


def test_permuted_dimensions_and_broadcast_strides_are_walked() -> None:
    memory = np.arange(64 * 8, dtype=np.uint16)
    base = memory.ctypes.data
    assert base % 16 == 0
    encoded = _simulator.encode_tensor_map(
        type=FLOAT16, address=base, extent=[8, 4, 2, 3], stride=[256, 32, 0], box=[8, 2, 2, 2], element_stride=[1] * 4
    )
    found = [(address - base) // 2 for address, _, _ in _simulator.walk_tensor_map(encoded, [0, 1, 0, 1])]
    assert found == [row * 128 + head * 16 for _ in range(2) for head in range(2) for row in (1, 2)]


# PTX ISA, "Swizzling Modes": where each 16-byte cell of a line of 128 bytes goes; one row per line, repeating.
TABLES = {
    NONE: ["01234567"],
    B32: ["01234567", "10325476"],
    B64: ["01234567", "10325476", "23016745", "32107654"],
    B128: ["01234567", "10325476", "23016745", "32107654", "45670123", "54761032", "67452301", "76543210"],
    ATOM_32B: ["01234567", "23016745", "45670123", "67452301"],
    ATOM_64B: ["01234567", "45670123"],
}


@pytest.mark.parametrize("mode", TABLES)
def test_swizzled_addresses_are_the_manuals_tables(mode: int) -> None:
    for address in range(0, 4096, 8):
        line, cell = address // 128, address % 128 // 16
        table = TABLES[mode][line % len(TABLES[mode])]
        assert _simulator.swizzled(mode, address) == line * 128 + table.index(str(cell)) * 16 + address % 16


def test_the_swizzle_with_flipped_halves_is_refused() -> None:
    with pytest.raises(ValueError, match="FLIP_8B"):
        _simulator.swizzled(ATOM_32B_FLIP_8B, 0)
