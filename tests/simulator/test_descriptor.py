"""Matrix and instruction descriptors: canonical layouts built from their definition, every bit that is not modelled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from jax_fa4_simulator import _simulator

DEPTH, WINDOW = 16, 1 << 18
# Bytes of a swizzle atom's line -> the mode's number in a tcgen05 and in a wgmma descriptor.
MODES = {16: (0, 0), 32: (6, 3), 64: (4, 2), 128: (2, 1)}
SM100, SM90 = 0, 1
GATHER = [_simulator.gather_sm100, _simulator.gather_sm90]
VIEW = [_simulator.view_sm100, _simulator.view_sm90]

# Fields of tcgen05.mma's instruction descriptor: first bit of each.
SATURATE, D_TYPE, A_TYPE, B_TYPE, NEGATE_A, NEGATE_B = 3, 4, 7, 10, 13, 14
A_MAJOR, B_MAJOR, N, M, SHIFT = 15, 16, 17, 24, 30


def _descriptor(arch: int, start: int, leading: int, stride: int, line: int) -> int:
    bits = start >> 4 | leading >> 4 << 16 | stride >> 4 << 32
    return bits | (1 << 46 | MODES[line][0] << 61 if arch == SM100 else MODES[line][1] << 62)


def _xor(line: int, address: int) -> int:
    """Bits 4 and up are XORed with bits 7 and up: one, two or three of them for lines of 32, 64 or 128 bytes."""
    return address ^ (address >> 7) % (line // 16) << 4


# Byte offset of element (row, k), from the layouts that the manual calls canonical; T = 8 elements in 16 bytes:
#   K-major   ((8, m), (T, 2)) : ((line, stride), (2, next))
#             next is leading without swizzle, else 16
#   MN-major  ((T, line/16, m), (8, k)) : ((2, 16, leading), (line, stride))
#             leading and stride exchanged without swizzle
def _k_major(row: int, k: int, line: int, leading: int, stride: int) -> int:
    return row % 8 * line + row // 8 * stride + k % 8 * 2 + k // 8 * (leading if line == 16 else 16)


def _mn_major(row: int, k: int, line: int, leading: int, stride: int) -> int:
    if line == 16:
        leading, stride = stride, leading
    per_line = line // 2
    return row % 8 * 2 + row % per_line // 8 * 16 + row // per_line * leading + k % 8 * line + k // 8 * stride


def _stored(matrix: np.ndarray, place: Callable[..., int], start: int, *layout: int) -> np.ndarray:
    shared = np.full(WINDOW // 2, 0xDEAD, np.uint16)
    for row, k in np.ndindex(matrix.shape):
        at = _xor(layout[0], start + place(row, k, *layout)) // 2
        assert shared[at] == 0xDEAD, "the layout must not overlap"
        shared[at] = matrix[row, k]
    return shared.view(np.uint8)


# (bytes of a line, leading, stride).
K_MAJOR = [(128, 0, 1024), (128, 16, 4096), (64, 0, 512), (32, 0, 256), (16, 128, 256), (16, 4096, 128)]
MN_MAJOR = [(128, 2048, 1024), (128, 1024, 16384), (64, 4096, 512), (64, 512, 4096), (32, 512, 256)]
MN_MAJOR += [(16, 8192, 128), (16, 128, 256)]


@pytest.mark.parametrize("arch", [SM100, SM90], ids=["sm100", "sm90"])
@pytest.mark.parametrize(("line", "leading", "stride"), K_MAJOR)
@pytest.mark.parametrize("rows", [8, 64, 128, 256])
def test_k_major_layouts(arch: int, line: int, leading: int, stride: int, rows: int) -> None:
    matrix = np.random.default_rng(rows).integers(0, 0xDEAD, (rows, DEPTH), np.uint16)
    for advance in range(0, line if line > 16 else 32, 32):  # along K, inside the atom
        start = 2048 + advance
        shared = _stored(matrix, _k_major, start, line, leading, stride)
        found = np.zeros_like(matrix)
        GATHER[arch](_descriptor(arch, start, leading, stride, line), False, shared, found)
        np.testing.assert_array_equal(found, matrix)


@pytest.mark.parametrize("arch", [SM100, SM90], ids=["sm100", "sm90"])
@pytest.mark.parametrize(("line", "leading", "stride"), MN_MAJOR)
@pytest.mark.parametrize("rows", [8, 16, 64, 96, 128])
def test_mn_major_layouts(arch: int, line: int, leading: int, stride: int, rows: int) -> None:
    matrix = np.random.default_rng(rows).integers(0, 0xDEAD, (rows, DEPTH), np.uint16)
    start = 3 * 1024
    shared = _stored(matrix, _mn_major, start, line, leading, stride)
    found = np.zeros_like(matrix)
    GATHER[arch](_descriptor(arch, start, leading, stride, line), True, shared, found)
    np.testing.assert_array_equal(found, matrix)


def test_chunks_are_addresses_in_the_order_of_the_operand() -> None:
    rows, depth = range(16), range(16)
    k_major = VIEW[SM100](_descriptor(SM100, 1024 + 32, 0, 1024, 128), False, 16)
    expected = [1056 + row // 8 * 1024 + row % 8 * 128 + half * 16 for row in rows for half in range(2)]
    assert k_major == [_xor(128, address) for address in expected]
    mn_major = VIEW[SM100](_descriptor(SM100, 2048, 4096, 1024, 128), True, 128)
    expected = [
        2048 + k // 8 * 1024 + k % 8 * 128 + chunk // 8 * 4096 + chunk % 8 * 16 for k in depth for chunk in rows
    ]
    assert mn_major == [_xor(128, address) for address in expected]


def test_chunks_may_lie_beyond_the_window() -> None:
    assert max(VIEW[SM100](_descriptor(SM100, WINDOW - 16, 0, WINDOW - 16, 128), False, 256)) > WINDOW


GOOD_MATRIX = {SM100: _descriptor(SM100, 1024, 0, 1024, 128), SM90: _descriptor(SM90, 1024, 0, 1024, 128)}
MATRIX_BITS = [
    (SM100, 14, "reserved"),
    (SM100, 31, "reserved"),
    (SM100, 46, "constant 0b001"),
    (SM100, 48, "constant 0b001"),
    (SM100, 49, "matrix base offset, bits 49 to 51, is 1"),
    (SM100, 51, "matrix base offset, bits 49 to 51, is 4"),
    (SM100, 52, "leading dimension stride mode"),
    (SM100, 53, "constant 0"),
    (SM100, 60, "constant 0"),
    (SM100, 61, "swizzling mode, bits 61 to 63, is 3"),
    (SM90, 15, "reserved"),
    (SM90, 30, "reserved"),
    (SM90, 46, "reserved"),
    (SM90, 50, "matrix base offset, bits 49 to 51, is 2"),
    (SM90, 52, "reserved"),
    (SM90, 61, "reserved"),
]


@pytest.mark.parametrize(("arch", "bit", "words"), MATRIX_BITS)
def test_a_matrix_descriptors_other_bits_are_refused(arch: int, bit: int, words: str) -> None:
    VIEW[arch](GOOD_MATRIX[arch], False, 64)
    with pytest.raises(ValueError, match=words):
        VIEW[arch](GOOD_MATRIX[arch] ^ 1 << bit, False, 64)


def test_swizzle_with_32_byte_atoms_is_not_for_16_bit_elements() -> None:
    with pytest.raises(ValueError, match="32-byte atoms"):
        VIEW[SM100](1 << 61 | 1 << 46, True, 64)


def _instruction(m: int = 128, n: int = 64, **fields: int) -> int:
    bits = 1 << D_TYPE | n // 8 << N | m // 16 << M
    for name, value in fields.items():
        bits |= value << globals()[name]
    return bits


def test_an_instruction_descriptors_fields() -> None:
    found = _simulator.instruction_descriptor(_instruction(m=64, n=72, A_TYPE=1, NEGATE_B=1, A_MAJOR=1), 1)
    assert found == {
        "a": "bf16", "b": "f16", "d": "f32", "a_mn_major": True, "b_mn_major": False,
        "negate_a": False, "negate_b": True, "m": 64, "n": 72,
    }  # fmt: skip
    found = _simulator.instruction_descriptor(_instruction(m=256, n=256, B_TYPE=1, NEGATE_A=1, B_MAJOR=1), 2)
    assert (found["a"], found["b"], found["m"], found["n"]) == ("f16", "bf16", 256, 256)
    assert (found["a_mn_major"], found["b_mn_major"]) == (False, True)
    assert (found["negate_a"], found["negate_b"]) == (True, False)


@pytest.mark.parametrize("cta_group", [1, 2])
def test_shapes_are_those_of_the_manuals_table(cta_group: int) -> None:
    step = 8 * cta_group
    for m in range(0, 512, 16):
        for n in range(0, 512, 8):
            if m in (64 * cta_group, 128 * cta_group) and n in range(step, 257, step):
                assert _simulator.instruction_descriptor(_instruction(m, n), cta_group)["m"] == m
            else:
                with pytest.raises(ValueError, match=r"M is|N is"):
                    _simulator.instruction_descriptor(_instruction(m, n), cta_group)


@pytest.mark.parametrize(
    ("bit", "words"),
    [
        (0, "sparsity selector"),
        (2, "sparsity"),
        (SATURATE, "saturate"),
        (D_TYPE, "type of D"),
        (D_TYPE + 1, "type of D"),
        (6, "reserved"),
        (A_TYPE + 1, "type of A is 2"),
        (B_TYPE + 2, "type of B is 4"),
        (23, "reserved"),
        (29, "reserved"),
        (SHIFT, "maximum shift"),
    ],
)
def test_an_instruction_descriptors_other_bits_are_refused(bit: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _simulator.instruction_descriptor(_instruction() ^ 1 << bit, 1)
