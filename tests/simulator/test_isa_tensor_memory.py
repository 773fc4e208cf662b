"""tcgen05.ld, st, alloc, dealloc (PTX ISA, "Tensor Memory": allocation, addressing, "Data Movement Shape")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_text import SCHEDULES, kernel, schedule_name

schedules = pytest.mark.parametrize("options", SCHEDULES, ids=schedule_name)
LANE = np.arange(32)

# Lane of tensor memory, and column, of register j in the warp's lane t: the manual's figures as formulas. Registers and
# columns of .x1, and the repeats that exist.
SHAPES: dict[str, tuple[Any, int, int, int]] = {
    "32x32b": (lambda t, j: (t, t * 0 + j), 1, 1, 128),
    "16x64b": (lambda t, j: (8 * (t % 2) + t // 4, 2 * j + t // 2 % 2), 1, 2, 128),
    "16x128b": (lambda t, j: (t // 4 + 8 * (j % 2), 4 * (j // 2) + t % 4), 2, 4, 64),
    "16x256b": (lambda t, j: (t // 4 + 8 * (j // 2 % 2), 8 * (j // 4) + 2 * (t % 4) + j % 2), 4, 8, 32),
}
FORMS = [(shape, 1 << i) for shape, (_, _, _, most) in SHAPES.items() for i in range(8) if 1 << i <= most]


def _vector(count: int, name: str) -> str:
    return "{" + ", ".join(f"%{name}{j}" for j in range(count)) + "}"


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_covers_its_rectangle_once(shape: str) -> None:
    place, registers, columns, repeats = SHAPES[shape]
    cells = {
        (int(lane), int(column))
        for j in range(registers * repeats)
        for lane, column in [*zip(*place(LANE, j), strict=True)]
    }
    lanes = 32 if shape == "32x32b" else 16
    assert cells == {(lane, column) for lane in range(lanes) for column in range(columns * repeats)}


def _addresses(shape: str, warp: int, columns: int) -> list[int]:
    lanes = [32 * warp] if shape == "32x32b" else [32 * warp, 32 * warp + 16]
    return [lane << 16 | column for lane in lanes for column in {0, 512 - columns}]


@pytest.mark.parametrize("warp", [0, 3])
@pytest.mark.parametrize(("shape", "repeat"), FORMS)
def test_ld(run: Callable[..., Any], shape: str, repeat: int, warp: int) -> None:
    place, registers, columns, _ = SHAPES[shape]
    tmem = np.arange(128 * 512, dtype=np.uint32).reshape(128, 512)
    for address in _addresses(shape, warp, columns * repeat):
        text = f"tcgen05.ld.sync.aligned.{shape}.x{repeat}.b32 {_vector(registers * repeat, 'd')}, [%t];"
        found = run(text + "tcgen05.wait::ld.sync.aligned;", tmem=tmem, t=address, warp=warp)
        for j in range(registers * repeat):
            lane, column = place(LANE, j)
            expected = tmem[(address >> 16) + lane, (address & 0xFFFF) + column]
            np.testing.assert_array_equal(found[f"d{j}"], expected)


@pytest.mark.parametrize("warp", [1, 2])
@pytest.mark.parametrize(("shape", "repeat"), FORMS)
def test_st(run: Callable[..., Any], shape: str, repeat: int, warp: int) -> None:
    place, registers, columns, _ = SHAPES[shape]
    tmem = np.random.default_rng(0).integers(0, 1 << 32, (128, 512), dtype=np.uint32)
    values = np.random.default_rng(1).integers(0, 1 << 32, (registers * repeat, 32), dtype=np.uint32)
    for address in _addresses(shape, warp, columns * repeat):
        text = f"tcgen05.st.sync.aligned.{shape}.x{repeat}.b32 [%t], {_vector(registers * repeat, 'a')};"
        inputs = {f"a{j}": values[j] for j in range(registers * repeat)}
        found = run(text + "tcgen05.wait::st.sync.aligned;", tmem=tmem, t=address, warp=warp, **inputs)
        expected = tmem.copy()
        for j in range(registers * repeat):
            lane, column = place(LANE, j)
            expected[(address >> 16) + lane, (address & 0xFFFF) + column] = values[j]
        np.testing.assert_array_equal(found["tmem"], expected)


def test_a_single_register_needs_no_braces(run: Callable[..., Any]) -> None:
    text = """
tcgen05.ld.sync.aligned.32x32b.x1.b32 %d, [%tmem+3];
tcgen05.wait::ld.sync.aligned;
add.u32 %d, %d, 1;
tcgen05.st.sync.aligned.32x32b.x1.b32 [%tmem], %d;
tcgen05.wait::st.sync.aligned;"""
    tmem = np.arange(128 * 32, dtype=np.uint32).reshape(128, 32)
    np.testing.assert_array_equal(run(text, tmem=tmem)["tmem"][:32, 0], tmem[:32, 3] + 1)


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("tcgen05.ld.sync.aligned.32x32b.x2.b32 {%r0}, [%r9];", 2),
        ("tcgen05.ld.sync.aligned.16x128b.x1.b32 {%r0}, [%r9];", 2),
        ("tcgen05.ld.sync.aligned.16x256b.x1.b32 {%r0, %r1}, [%r9];", 4),
        ("tcgen05.st.sync.aligned.16x64b.x1.b32 [%r9], {%r0, %r1};", 1),
    ],
)
def test_registers_fit_the_shape(simulate: Callable[..., Any], text: str, needed: int) -> None:
    with pytest.raises(ValueError, match=f"kernel.ptx:9: tcgen05.*: {needed} registers are needed, not"):
        simulate(kernel(text))


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("tcgen05.ld.sync.aligned.32x32b.x1.b32 {%d}, [0];", "out_of_bounds", "only its own 32 lanes"),
        ("tcgen05.ld.sync.aligned.32x32b.x1.b32 {%d}, [0x400000];", "out_of_bounds", "only its own 32 lanes"),
        ("tcgen05.ld.sync.aligned.32x32b.x1.b32 {%d}, [0x300000];", "out_of_bounds", "only its own 32 lanes"),
        ("tcgen05.ld.sync.aligned.16x64b.x1.b32 {%d}, [0x280000];", "out_of_bounds", "only its own 32 lanes"),
        ("tcgen05.st.sync.aligned.32x32b.x1.b32 [0xA00000], {%d};", "out_of_bounds", "only its own 32 lanes"),
        ("tcgen05.st.sync.aligned.32x32b.x1.b32 [0x200020], {%d};", "tensor_memory", "not allocated"),
        ("tcgen05.ld.sync.aligned.32x32b.x2.b32 {%d, %e}, [0x20001F];", "tensor_memory", "not allocated"),
        ("tcgen05.ld.sync.aligned.32x32b.x1.b32 {%d}, [0x200200];", "tensor_memory", "not allocated"),
    ],
)
def test_faults(run: Callable[..., Any], text: str, kind: str, words: str) -> None:
    tmem = np.zeros((128, 32), np.uint32)
    (report,) = run(text, tmem=tmem, warp=1, raise_on_report=False).result.reports
    assert report.kind == kind and words in report.title and report.fatal
    assert report.second.who == "warp 1" and report.second.text == text.rstrip(";")


# Allocation.

ALLOC = "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1{}], {};"
DEALLOC = "tcgen05.dealloc.cta_group::1.sync.aligned.b32 {}, {};"
RELINQUISH = "tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;"
LOAD = "ld.shared.b32 %r{0}, [%r1+{1}];"


def _of_warp_0(body: str) -> str:
    return kernel(f"mov.b32 %r1, dynamic; mov.u32 %r0, %warpid; setp.ne.u32 %p0, %r0, 0; @%p0 bra end;\n{body}\nend:")


def _reports(simulate: Callable[..., Any], body: str, **options: Any) -> list[Any]:
    options = {"dynamic_shared": 64, "raise_on_report": False, **options}
    reports: list[Any] = simulate(_of_warp_0(body), **options).reports
    return reports


@pytest.mark.parametrize("columns", [32, 64, 128, 256, 512])
def test_blocks_are_disjoint_and_aligned(simulate: Callable[..., Any], columns: int) -> None:
    count = 512 // columns
    body = "\n".join(ALLOC.format(f"+{4 * i}", columns) + LOAD.format(10 + i, 4 * i) for i in range(count))
    body += f"\nld.param.b64 %l0, [out];{RELINQUISH}"
    body += "".join(f"st.global.b32 [%l0+{4 * i}], %r{10 + i};" for i in range(count))
    body += "".join(DEALLOC.format(f"%r{10 + i}", columns) for i in range(count))
    out = np.zeros(count, np.uint32)
    text = _of_warp_0(body).replace("kernel()", "kernel(.param .u64 out)")
    assert not simulate(text, dynamic_shared=64, arguments=[out]).reports
    assert sorted(out) == list(range(0, 512, columns))


def test_freed_columns_are_given_again(simulate: Callable[..., Any]) -> None:
    body = (ALLOC.format("", 512) + LOAD.format(2, 0) + DEALLOC.format("%r2", 512)) * 3
    assert _reports(simulate, body) == []


# Warp 0 holds all columns until warp 1 has asked for some.
BLOCKING = """
mov.b32 %r1, dynamic; mov.u32 %r0, %warpid; setp.ne.u32 %p0, %r0, 0; @%p0 bra other;
tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 512;
ld.shared.b32 %r2, [%r1];
bar.sync 1, 64;
tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r2, 512;
bra end;
other:
bar.sync 1, 64;
tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1+4], 128;
ld.shared.b32 %r2, [%r1+4];
tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r2, 128;
end:
"""


@schedules
def test_alloc_waits_for_columns(simulate: Callable[..., Any], options: dict[str, Any]) -> None:
    simulate(kernel(BLOCKING, threads=64), dynamic_shared=16, **options)


def test_alloc_waits_for_ever(simulate: Callable[..., Any]) -> None:
    body = ALLOC.format("", 512) + ALLOC.format("+4", 32)
    (report,) = _reports(simulate, body)
    assert report.kind == "deadlock" and "32 columns of tensor memory" in report.text


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        *[(ALLOC.format("", n), "tensor_memory", "takes 32, 64, 128, 256 or 512 columns") for n in (0, 16, 48, 1024)],
        (RELINQUISH + ALLOC.format("", 32), "tensor_memory", "tcgen05.alloc after relinquish_alloc_permit"),
        (ALLOC.format("+2", 32), "misaligned", "aligned to 4 bytes"),
        (ALLOC.format("+64", 32), "out_of_bounds", "outside the CTA's shared memory"),
        (DEALLOC.format(0, 32), "tensor_memory", "that were not allocated so"),
        (ALLOC.format("", 64) + DEALLOC.format(0, 32), "tensor_memory", "that were not allocated so"),
        (ALLOC.format("", 64) + DEALLOC.format(32, 32), "tensor_memory", "that were not allocated so"),
        (ALLOC.format("", 64) + DEALLOC.format(1, 64), "tensor_memory", "that were not allocated so"),
        (ALLOC.format("", 64) + DEALLOC.format(0, 64) * 2, "tensor_memory", "that were not allocated so"),
        (ALLOC.format("", 64), "tensor_memory", "tensor memory is not freed before the CTA exits"),
    ],
)
def test_allocation_faults(simulate: Callable[..., Any], body: str, kind: str, words: str) -> None:
    (report,) = _reports(simulate, body)
    assert report.kind == kind and words in report.title


PAIR = """
mov.b32 %r1, dynamic; mov.u32 %r0, %warpid; setp.ne.u32 %p0, %r0, 0;
{meet}
@%p0 bra end;
tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [%r1], 256;
tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;
ld.shared.b32 %r2, [%r1];
{meet}
tcgen05.dealloc.cta_group::2.sync.aligned.b32 %r2, 256;
end:
"""
MEET = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"


@schedules
def test_a_pair_allocates_together(simulate: Callable[..., Any], options: dict[str, Any]) -> None:
    simulate(kernel(PAIR.format(meet=MEET)), grid=4, cluster=2, dynamic_shared=16, **options)


def test_a_pair_must_be_known_to_run(simulate: Callable[..., Any]) -> None:
    text = kernel(PAIR.format(meet=""))
    reports = simulate(text, grid=2, cluster=2, dynamic_shared=16, raise_on_report=False).reports
    assert [report.title for report in reports] == [
        "tcgen05.alloc of a CTA pair before the peer CTA is known to run",
        "tcgen05.dealloc before the peer CTA's tcgen05.alloc is known to be complete",
    ]


def test_both_of_a_pair_must_ask(simulate: Callable[..., Any]) -> None:
    only_one = PAIR.replace("{meet}", "", 2).replace("@%p0 bra end;", "{meet}@%p0 bra end;", 1)
    only_one = only_one.format(
        meet=MEET + "mov.u32 %r3, %cluster_ctarank; setp.ne.u32 %p1, %r3, 0; or.pred %p0, %p0, %p1;"
    )
    (report,) = simulate(kernel(only_one), grid=2, cluster=2, dynamic_shared=16, raise_on_report=False).reports
    assert report.kind == "deadlock" and "256 columns of tensor memory" in report.text


def test_a_pair_needs_a_cluster(simulate: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="a cta_group::2 kernel needs a cluster of an even number of CTAs"):
        simulate(kernel(PAIR.format(meet="")), dynamic_shared=16)
