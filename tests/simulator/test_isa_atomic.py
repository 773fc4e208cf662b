"""atom and red (PTX ISA, "Parallel Synchronization and Communication Instructions: atom, red")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from jax_fa4_simulator import SHARED_BASE, empty
from kernel_text import SCHEDULES, kernel, schedule_name

LANE = np.arange(32, dtype=np.uint32)
SPACES = ["global", "shared", "shared::cta", "shared::cluster"]


def _wrapping(operation: Callable[..., Any]) -> Callable[..., Any]:
    def combine(old: Any, value: Any) -> Any:
        with np.errstate(over="ignore"):
            return operation(old, value)

    return combine


OPERATIONS: dict[str, tuple[list[str], Any]] = {
    "add": (["u32", "s32", "u64", "f32"], _wrapping(np.add)),
    "min": (["u32", "s32"], np.minimum),
    "max": (["u32", "s32"], np.maximum),
    "and": (["b32", "b64"], np.bitwise_and),
    "or": (["b32", "b64"], np.bitwise_or),
    "xor": (["b32", "b64"], np.bitwise_xor),
    "exch": (["b32", "b64"], lambda old, value: value),
}
TYPES: dict[str, Any] = {
    "u32": np.uint32, "b32": np.uint32, "s32": np.int32, "u64": np.uint64, "b64": np.uint64, "f32": np.float32,
}  # fmt: skip
CASES = [(name, type_) for name, (types, _) in OPERATIONS.items() for type_ in types]


def _values(kind: Any, count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if kind is np.float32:
        return random.integers(-99, 99, count).astype(kind)
    return random.integers(0, 1 << 32, count, dtype=np.uint64).astype(kind)


def _run(run: Callable[..., Any], space: str, text: str, cells: np.ndarray, index: np.ndarray, **more: Any) -> Any:
    """%at is the place of cells[index]."""
    if space == "global":
        memory = empty(cells.shape, cells.dtype)
        memory[:] = cells
        at = memory.ctypes.data + index.astype(np.uint64) * cells.itemsize
        return run(text, at=at, memory={"cells": memory}, **more), memory
    found = run(text, at=(SHARED_BASE + index * cells.itemsize).astype(np.uint32), shared=cells, **more)
    return found, found["shared"]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("name", "type_"), CASES)
def test_lanes_go_one_after_another(run: Callable[..., Any], name: str, type_: str, space: str) -> None:
    kind, combine = TYPES[type_], OPERATIONS[name][1]
    cells, values, index = _values(kind, 5, 0), _values(kind, 32, 1), LANE % 5
    found, after = _run(
        run, space, f"atom.{space}.{name}.{type_} %d, [%at], %a;", cells, index, a=values, out={"d": kind}
    )
    expected, old = cells.copy(), np.zeros(32, kind)
    for lane in range(32):
        old[lane] = expected[index[lane]]
        expected[index[lane]] = combine(expected[index[lane]], values[lane])
    np.testing.assert_array_equal(after, expected)
    np.testing.assert_array_equal(found["d"], old)
    if name != "exch":
        _, after = _run(run, space, f"red.{space}.{name}.{type_} [%at], %a;", cells, index, a=values)
        np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("type_", ["b32", "b64"])
def test_cas(run: Callable[..., Any], type_: str, space: str) -> None:
    kind = TYPES[type_]
    cells = np.zeros(2, kind)
    text = f"atom.{space}.cas.{type_} %d, [%at], %b, %c;"
    lane = LANE.astype(kind)
    found, after = _run(run, space, text, cells, LANE % 2, b=lane // 2, c=lane // 2 + 1, out={"d": kind})
    np.testing.assert_array_equal(after, [16, 16])
    np.testing.assert_array_equal(found["d"], lane // 2)
    found, after = _run(run, space, text, cells + kind(99), LANE % 2, b=lane, c=lane, out={"d": kind})
    np.testing.assert_array_equal(after, [99, 99])


@pytest.mark.parametrize("scope", ["", ".cta", ".cluster", ".gpu", ".sys"])
@pytest.mark.parametrize("order", ["", ".relaxed", ".acquire", ".release", ".acq_rel"])
def test_orders_and_scopes(run: Callable[..., Any], order: str, scope: str) -> None:
    _, after = _run(run, "global", f"atom{order}{scope}.global.add.u32 %d, [%at], 1;", np.zeros(1, np.uint32), LANE * 0)
    assert after[0] == 32
    if order in ("", ".relaxed", ".release"):
        _, after = _run(run, "global", f"red{order}{scope}.global.add.u32 [%at], 1;", np.zeros(1, np.uint32), LANE * 0)
        assert after[0] == 32


@pytest.mark.parametrize("options", SCHEDULES, ids=schedule_name)
@pytest.mark.parametrize("threads", [1, 2])
def test_all_ctas_add_to_one_cell(simulate: Callable[..., Any], threads: int, options: dict[str, Any]) -> None:
    body = """
ld.param.b64 %l0, [cells]; mov.u32 %r0, %tid.x;
red.global.add.u32 [%l0], 1;
atom.global.max.u32 %r1, [%l0+4], %r0;
mov.b32 %r2, dynamic;
setp.eq.u32 %p0, %r0, 0; @%p0 st.shared.b32 [%r2], 0;
bar.sync 0;
atom.shared.add.u32 %r1, [%r2], %r0;
bar.sync 0;
@%p0 ld.shared.b32 %r1, [%r2];
@%p0 red.release.gpu.global.add.u32 [%l0+8], %r1;"""
    cells = np.zeros(3, np.uint32)
    text = kernel(body, ".param .u64 cells", 64)
    simulate(text, grid=8, cluster=2, dynamic_shared=16, threads=threads, arguments=[cells], **options)
    np.testing.assert_array_equal(cells, [512, 63, 8 * 2016])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("red.shared.add.u32 [%shared+2], %a;", "misaligned"),
        ("red.shared.add.u64 [%shared+4], %l;", "misaligned"),
        ("red.shared.add.u32 [%shared+144], %a;", "out_of_bounds"),
        ("red.global.add.u32 [%data+2], %a;", "misaligned"),
        ("atom.global.cas.b64 %l, [%data+64], %l, %l;", "out_of_bounds"),
        ("mbarrier.init.shared.b64 [%scratch], 1; red.shared.add.u32 [%scratch], %a;", "barrier"),
    ],
)
def test_faults(run: Callable[..., Any], text: str, kind: str) -> None:
    found = run(
        text, a=1, l=np.uint64(1), active=1, shared=bytes(128), scratch=16, memory={"data": empty(16, np.uint32)},
        raise_on_report=False,
    )  # fmt: skip
    assert [report.kind for report in found.result.reports] == [kind]
