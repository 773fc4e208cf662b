"""ld, st and stmatrix (PTX ISA, "Data Movement and Conversion Instructions")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from jax_fa4_simulator import SHARED_BASE, empty
from kernel_text import kernel

LANE = np.arange(32, dtype=np.uint32)
TYPES: dict[str, Any] = {
    "b8": np.uint8, "u8": np.uint8, "s8": np.int8, "b16": np.uint16, "u16": np.uint16, "s16": np.int16,
    "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.uint32,
    "b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f64": np.uint64,
}  # fmt: skip
SPACES = ["shared", "shared::cta", "weak.shared", "volatile.shared", "global", "global.L1::no_allocate", "weak.global"]
# A vector has at most 16 bytes.
FORMS = [
    (type_, vector, count)
    for type_, kind in TYPES.items()
    for vector, count in (("", 1), (".v2", 2), (".v4", 4))
    if np.dtype(kind).itemsize * count <= 16
]


def _vector(count: int, name: str = "d") -> str:
    return f"%{name}0" if count == 1 else "{" + ", ".join(f"%{name}{i}" for i in range(count)) + "}"


def _bytes(count: int) -> np.ndarray:
    source = empty(count, np.uint8)
    source[:] = np.random.default_rng(count).integers(0, 256, count)
    return source


def _at(run: Callable[..., Any], space: str, text: str, data: np.ndarray, step: int, **more: Any) -> Any:
    """Runs a text with %at at lane x step bytes into the data, and returns the data as it is then."""
    if "global" in space:
        found = run(text, at=data.ctypes.data + LANE.astype(np.uint64) * step, memory={"data": data}, **more)
        return found, data
    found = run(text, at=SHARED_BASE + LANE * step, shared=data, **more)
    return found, found["shared"]


@pytest.mark.parametrize("space", [*SPACES, "global.nc", "global.nc.L1::evict_first", "volatile.global"])
@pytest.mark.parametrize(("type_", "vector", "count"), FORMS)
def test_ld(run: Callable[..., Any], type_: str, vector: str, count: int, space: str) -> None:
    kind = np.dtype(TYPES[type_])
    data = _bytes(32 * kind.itemsize * count)
    register = kind if kind.itemsize > 1 else np.dtype(np.int16 if kind.kind == "i" else np.uint16)
    out = {f"d{i}": register for i in range(count)}
    found, _ = _at(
        run, space, f"ld.{space}{vector}.{type_} {_vector(count)}, [%at];", data, kind.itemsize * count, out=out
    )
    expected = data.view(kind).reshape(32, count)
    for i in range(count):
        np.testing.assert_array_equal(found[f"d{i}"], expected[:, i].astype(register))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("type_", "vector", "count"), FORMS)
def test_st(run: Callable[..., Any], type_: str, vector: str, count: int, space: str) -> None:
    kind = np.dtype(TYPES[type_])
    size = kind.itemsize * count
    values = (
        np.random.default_rng(size).integers(0, 1 << 16, (32, count)).astype(np.uint16 if kind.itemsize < 2 else kind)
    )
    data = _bytes(32 * size + 16)
    before = data.copy()
    registers = {f"a{i}": values[:, i].copy() for i in range(count)}
    text = f"st.{space}{vector}.{type_} [%at], {_vector(count, 'a')};"
    _, after = _at(run, space, text, data, size, active=0xFFFF00FF, **registers)
    expected = before[: 32 * size].reshape(32, size).copy()
    stored = values.astype(kind).view(np.uint8).reshape(32, size)
    expected[LANE % 32 < 8] = stored[:8]
    expected[16:] = stored[16:]
    np.testing.assert_array_equal(after[: 32 * size].reshape(32, size), expected)
    np.testing.assert_array_equal(after[32 * size :], before[32 * size :])


def test_128_bits_in_one_register(run: Callable[..., Any]) -> None:
    data = _bytes(512)
    text = """
ld.shared.b128 %d, [%at];
st.shared.b128 [%at+512], %d;
ld.shared.v2.b64 {%e, %f}, [%at+512];"""
    shared = np.concatenate([data, np.zeros(512, np.uint8)])
    out = {"d": (np.uint64, 2), "e": np.uint64, "f": np.uint64}
    found = run(text, at=SHARED_BASE + LANE * 16, shared=shared, out=out)
    pairs = data.view(np.uint64).reshape(32, 2)
    np.testing.assert_array_equal(found["d"], pairs)
    np.testing.assert_array_equal(np.stack([found["e"], found["f"]], axis=1), pairs)


def test_256_bits_of_global_memory(run: Callable[..., Any]) -> None:
    data, copy = _bytes(1024), empty(1024, np.uint8)
    vector = "{" + ", ".join(f"%d{i}" for i in range(8)) + "}"
    text = f"ld.global.v8.b32 {vector}, [%at]; st.global.v8.f32 [%to], {vector};"
    step = LANE.astype(np.uint64) * 32
    run(text, at=data.ctypes.data + step, to=copy.ctypes.data + step, memory={"data": data, "copy": copy})
    np.testing.assert_array_equal(copy, data)


@pytest.mark.parametrize(
    ("type_", "register", "expected"),
    [
        ("s8", np.int64, -128), ("u8", np.uint64, 128), ("b8", np.uint32, 128), ("s16", np.int32, -0x7F80),
        ("u16", np.uint64, 0x8080), ("s32", np.int64, -0x7F7F7F80), ("u32", np.uint64, 0x80808080),
        ("b32", np.uint64, 0x80808080),
    ],
)  # fmt: skip
def test_wider_registers_are_extended(run: Callable[..., Any], type_: str, register: Any, expected: int) -> None:
    data = np.full(8, 0x80, np.uint8)
    found = run(f"ld.shared.{type_} %d, [%shared];", shared=data, out={"d": register})
    np.testing.assert_array_equal(found["d"], np.full(32, expected, register))


@pytest.mark.parametrize(("type_", "high"), [("s64", (1 << 64) - 1), ("u64", 0), ("b64", 0)])
def test_64_bits_into_a_register_of_128(run: Callable[..., Any], type_: str, high: int) -> None:
    found = run(f"ld.shared.{type_} %d, [%shared];", shared=np.full(8, 0x80, np.uint8), out={"d": (np.uint64, 2)})
    np.testing.assert_array_equal(found["d"], [[0x8080808080808080, high]] * 32)


def test_wider_registers_are_cut(run: Callable[..., Any]) -> None:
    found = run("st.shared.b8 [%at], %a;", at=SHARED_BASE + LANE, a=np.uint64(0x1122334455667788), shared=bytes(32))
    np.testing.assert_array_equal(found["shared"], np.full(32, 0x88))


def test_literals_are_stored(run: Callable[..., Any]) -> None:
    text = "st.shared.b8 [%shared], 7; st.shared.v2.b32 [%shared+8], {-1, 0f3F800000}; st.shared.b16 [%shared+4], -2;"
    found = run(text, shared=np.zeros(4, np.uint32), active=1)
    np.testing.assert_array_equal(found["shared"], [7, 0xFFFE, 0xFFFFFFFF, 0x3F800000])


ORDERED = [
    f"{name}.{order}.{scope}.global" for name, orders in (("ld", "relaxed acquire"), ("st", "relaxed release"))
    for order in orders.split() for scope in ("cta", "cluster", "gpu", "sys")
]  # fmt: skip


@pytest.mark.parametrize("space_first", [False, True])
@pytest.mark.parametrize("opcode", ORDERED)
def test_strong_accesses(run: Callable[..., Any], opcode: str, space_first: bool) -> None:
    name, order, scope, _ = opcode.split(".")
    if space_first:
        opcode = f"{name}.global.{order}.{scope}"
    for type_, kind in (("b32", np.uint32), ("s64", np.int64)):
        size = np.dtype(kind).itemsize
        data = _bytes(32 * size)
        at = data.ctypes.data + LANE.astype(np.uint64) * size
        if name == "ld":
            found = run(f"{opcode}.{type_} %d, [%at];", at=at, memory={"data": data}, out={"d": kind})
            np.testing.assert_array_equal(found["d"], data.view(kind))
        else:
            values = np.arange(32).astype(kind)
            run(f"{opcode}.{type_} [%at], %a;", at=at, a=values, memory={"data": data})
            np.testing.assert_array_equal(data.view(kind), values)


def test_parameters(simulate: Callable[..., Any]) -> None:
    body = """
ld.param.b64 %l0, [out];
ld.param.s8 %r1, [small]; st.global.b32 [%l0], %r1;
ld.param.u8 %r1, [small]; st.global.b32 [%l0+4], %r1;
ld.param.v2.b32 {%r1, %r2}, [block+8]; st.global.v2.b32 [%l0+8], {%r1, %r2};
mov.b64 %l2, block; ld.param.v4.b16 {%h1, %h2, %h3, %h4}, [%l2+16];
st.global.v4.b16 [%l0+16], {%h1, %h2, %h3, %h4};
ld.param.f64 %l3, [real]; st.global.b64 [%l0+24], %l3;"""
    parameters = ".param .u64 out, .param .s8 small, .param .align 8 .b8 block[24], .param .f64 real"
    out = np.zeros(8, np.uint32)
    block = np.arange(6, dtype=np.uint32) * 0x01010101
    simulate(kernel(body, parameters, 32), block=32, arguments=[out, -3, block.tobytes(), 0.1], checks=False)
    expected = [0xFFFFFFFD, 0xFD, *block[2:6], *np.frombuffer(np.float64(0.1).tobytes(), np.uint32)]
    np.testing.assert_array_equal(out, expected)


# stmatrix: lane l holds of each 8 x 8 matrix the elements (l / 4, 2 (l % 4)) and the next; lane i of each eight says
# where a row goes.


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_stmatrix(run: Callable[..., Any], count: int, transposed: bool) -> None:
    matrices = np.random.default_rng(count).integers(0, 1 << 16, (count, 8, 8), dtype=np.uint16)
    row, column = LANE // 4, 2 * (LANE % 4)
    registers = {
        f"a{j}": matrices[j, row, column].astype(np.uint32) | matrices[j, row, column + 1].astype(np.uint32) << 16
        for j in range(count)
    }
    place = np.random.default_rng(7).permutation(32)  # of row i of matrix j: place[8 j + i]
    form = ".trans" * transposed
    text = f"stmatrix.sync.aligned.m8n8.x{count}{form}.shared.b16 [%at], {_vector(count, 'a')};"
    found = run(text, at=SHARED_BASE + 16 * place.astype(np.uint32), shared=np.zeros((32, 8), np.uint16), **registers)
    expected = np.zeros((32, 8), np.uint16)
    for j in range(count):
        expected[place[8 * j : 8 * j + 8]] = matrices[j].T if transposed else matrices[j]
    np.testing.assert_array_equal(found["shared"], expected)


# What may not be touched.


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("ld.shared.b32 %d, [%shared+128];", "out_of_bounds", "access outside the CTA's shared memory"),
        ("st.shared.b32 [%shared+-4], %a;", "out_of_bounds", "access outside the CTA's shared memory"),
        ("ld.shared.b32 %d, [0];", "out_of_bounds", "access outside the CTA's shared memory"),
        ("ld.shared.v4.b32 {%d, %e, %f, %g}, [%shared+88];", "misaligned", "must be aligned to 16 bytes"),
        ("ld.shared.b64 %l, [%shared+4];", "misaligned", "must be aligned to 8 bytes"),
        ("st.shared.b16 [%shared+1], %a;", "misaligned", "must be aligned to 2 bytes"),
        ("st.shared::cluster.b32 [%shared+0x1000000], %a;", "out_of_bounds", "CTA 1 in a cluster of 1"),
        ("ld.global.b32 %d, [%data+128];", "out_of_bounds", "access outside the launch's global memory"),
        ("st.global.b32 [%data+-4], %a;", "out_of_bounds", "access outside the launch's global memory"),
        ("ld.global.b32 %d, [0];", "out_of_bounds", "below every allocation"),
        ("ld.global.b64 %l, [%data+124];", "out_of_bounds", "4 bytes before the end of the allocation of 128 bytes"),
        ("ld.global.b32 %d, [%data+130];", "out_of_bounds", "2 bytes after the allocation of 128 bytes"),
        ("ld.global.b32 %d, [%data+2];", "misaligned", "must be aligned to 4 bytes"),
        ("st.global.v2.b32 [%data+4], {%a, %a};", "misaligned", "must be aligned to 8 bytes"),
        ("st.global.b32 [%fixed], %a;", "out_of_bounds", "write to read-only global memory"),
        ("ld.param.b64 %l, [_tensor+8];", "out_of_bounds", "ld.param beyond the kernel's parameters"),
        ("ld.param.b32 %d, [%l];", "out_of_bounds", "ld.param beyond the kernel's parameters"),
        ("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%shared+8], %a;", "misaligned", "must be aligned to 16 bytes"),
    ],
)
def test_faults(run: Callable[..., Any], text: str, kind: str, words: str) -> None:
    data, fixed = empty(128, np.uint8), empty(128, np.uint8)
    fixed.flags.writeable = False
    out = {"l": np.uint64} if "%l" in text else {}
    more = {"l": np.uint64((1 << 64) - 4)} if "[%l]" in text else {}
    found = run(
        text,
        a=1,
        active=0xFFFFFFFF if "matrix" in text else 1,
        shared=bytes(128),
        memory={"data": data, "fixed": fixed},
        out=out,
        raise_on_report=False,
        **more,
    )
    (report,) = found.result.reports
    assert report.kind == kind and report.fatal and found.result.failed
    assert words in report.text
    assert report.second.text == text.rstrip(";")


@pytest.mark.parametrize("access", ["st.shared.b32 [%scratch+4], %a;", "ld.shared.b32 %d, [%scratch+4];"])
@pytest.mark.parametrize("freed", [False, True])
def test_data_in_the_place_of_an_mbarrier(run: Callable[..., Any], access: str, freed: bool) -> None:
    free = "mbarrier.inval.shared.b64 [%scratch];" * freed
    text = f"mbarrier.init.shared.b64 [%scratch], 1; {free} st.shared.b32 [%scratch+8], %a; {access}"
    reports = run(text, a=1, active=1, scratch=64, options={"checks": False}, raise_on_report=False).result.reports
    verb = "store to" if access.startswith("st") else "load from"
    assert [report.title for report in reports] == [f"{verb} the place of an mbarrier"] * (not freed)


def test_bank_conflicts_are_counted(run: Callable[..., Any]) -> None:
    def wavefronts(step: int, access: str = "ld.shared.b32 %d, [%at];") -> tuple[int, int]:
        shared = np.zeros(2048, np.uint32)
        counts = [
            run(text, at=SHARED_BASE + LANE * step, shared=shared).result.counters
            for text in (access, "mov.b32 %x, %at;")
        ]
        names = ("shared_wavefronts", "shared_wavefronts_ideal")
        found, ideal = (counts[0][name] - counts[1][name] for name in names)
        return found, ideal

    assert wavefronts(4) == (1, 1)
    assert wavefronts(0) == (1, 1)
    assert wavefronts(8) == (2, 1)
    assert wavefronts(128) == (32, 1)
    assert wavefronts(132) == (1, 1)
    assert wavefronts(16, "ld.shared.v4.b32 {%d, %e, %f, %g}, [%at];") == (4, 4)
    assert wavefronts(128, "ld.shared.v4.b32 {%d, %e, %f, %g}, [%at];") == (32, 4)
