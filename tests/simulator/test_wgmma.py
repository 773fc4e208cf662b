"""wgmma: fragments and operands as the manual lays them out, and what its fences and waits are for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from jax_fa4_simulator import SHARED_BASE

ELEMENTS = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}
COLUMNS = range(8, 257, 8)
THREAD = np.arange(128)
WARP, LANE = THREAD // 32, THREAD % 32
B_START = 16384
FENCE, COMMIT = "wgmma.fence.sync.aligned;", "wgmma.commit_group.sync.aligned;"


def _wait(newest: int = 0) -> str:
    return f"wgmma.wait_group.sync.aligned {newest};"


# Layout of a matrix operand: bytes of a swizzled line, whether K is contiguous.
LAYOUTS = [(16, True), (16, False), (128, True), (128, False)]


def _offset(row: Any, k: Any, line: int, k_major: bool) -> Any:
    """Bytes from the operand's start; 8 x 8 cores of 128 bytes without swizzle, lines of 128 bytes with it."""
    if line == 16:
        inner, outer = (row, k) if k_major else (k, row)
        return inner % 8 * 16 + outer % 8 * 2 + row // 8 * 256 + k // 8 * 128
    if k_major:
        return row * 128 + (k * 2 ^ row % 8 * 16)
    return row // 64 * 2048 + k * 128 + (row % 64 * 2 ^ k % 8 * 16)


def _descriptor(start: int, line: int, k_major: bool) -> int:
    leading, stride = (128, 256) if line == 16 else (0, 1024) if k_major else (2048, 1024)
    return start + SHARED_BASE >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | (1 << 62 if line == 128 else 0)


def _stored(shared: np.ndarray, matrix: np.ndarray, start: int, line: int, k_major: bool) -> int:
    """Lays a matrix out in shared memory; its descriptor."""
    row, k = np.indices(matrix.shape)
    shared[(start + _offset(row, k, line, k_major)) // 2] = matrix.view(np.uint16)
    return _descriptor(start, line, k_major)


def _accumulator(j: int) -> tuple[np.ndarray, np.ndarray]:
    return 16 * WARP + LANE // 4 + 8 * (j // 2 % 2), 8 * (j // 4) + 2 * (LANE % 4) + j % 2


def _fragment(a: np.ndarray, register: int) -> np.ndarray:
    row, column = 16 * WARP + LANE // 4 + 8 * (register % 2), 2 * (LANE % 4) + 8 * (register // 2)
    return np.stack([a[row, column], a[row, column + 1]], axis=1)


def _integers(seed: int, shape: tuple[int, int], element: str) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(ELEMENTS[element])


def _vector(columns: int, name: str = "d") -> str:
    return "{" + ", ".join(f"%{name}{j}" for j in range(columns // 2)) + "}"


def _mma(columns: int, element: str, a: str, constants: str, d: str = "d") -> str:
    shape = f"m64n{columns}k16.f32.{element}.{element}"
    return f"wgmma.mma_async.sync.aligned.{shape} {_vector(columns, d)}, {a}, %b, %p, {constants};"


class Product:
    """64 x columns x 16, with what each register holds before and must hold after."""

    def __init__(
        self, columns: int, element: str = "bf16", a_layout: Any = (128, True), b_layout: Any = (128, True)
    ) -> None:
        self.columns, self.element = columns, element
        self.a, self.b = _integers(columns, (64, 16), element), _integers(columns + 1, (columns, 16), element)
        self.before = np.random.default_rng(columns).integers(-9, 10, (64, columns)).astype(np.float32)
        self.shared = np.zeros((B_START + 65536) // 2, np.uint16)
        self.registers: dict[str, Any] = {f"d{j}": self.before[_accumulator(j)] for j in range(columns // 2)}
        self.registers["b"] = np.uint64(_stored(self.shared, self.b, B_START, *b_layout))
        self.a_descriptor = np.uint64(_stored(self.shared, self.a, 0, *a_layout))
        self.fragments = {f"a{r}": _fragment(self.a, r) for r in range(4)}

    def run(self, run: Callable[..., Any], text: str, accumulates: bool = True, **more: Any) -> Any:
        out = {f"d{j}": np.float32 for j in range(self.columns // 2)}
        registers = {**self.registers, "p": np.bool_(accumulates)}
        registers |= self.fragments if "%a0" in text else {"a": self.a_descriptor}
        registers |= {name: more.pop(name) for name in list(more) if name in registers}
        return run(text, out=out, warp=None, target="sm_90a", shared=self.shared, **registers, **more)

    def check(self, found: Any, scale: int = 1, accumulates: bool = True) -> None:
        expected = scale * (self.a.astype(np.float32) @ self.b.astype(np.float32).T) + self.before * accumulates
        for j in range(self.columns // 2):
            np.testing.assert_array_equal(found[f"d{j}"], expected[_accumulator(j)])


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("columns", COLUMNS)
def test_both_operands_in_shared_memory(run: Callable[..., Any], columns: int, element: str) -> None:
    product = Product(columns, element)
    found = product.run(run, FENCE + _mma(columns, element, "%a", "1, 1, 0, 0") + COMMIT + _wait())
    product.check(found)
    counters = found.result.counters
    assert counters["tensor_macs"] == 64 * columns * 16
    assert counters["tensor_instructions"] == 1
    assert counters["tensor_cycles"] == columns // 2  # 1024 multiply-adds a column, 2048 a clock


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(
    ("b_layout", "columns"),
    # MN-major lines of 128 bytes hold 64 columns.
    [(b, n) for b in LAYOUTS for n in (8, 24, 64, 136, 256) if b != (128, False) or n % 64 == 0],
)
def test_a_in_registers(run: Callable[..., Any], b_layout: tuple[int, bool], columns: int, element: str) -> None:
    product = Product(columns, element, b_layout=b_layout)
    text = _mma(columns, element, "{%a0, %a1, %a2, %a3}", f"1, 1, {int(not b_layout[1])}")
    product.check(product.run(run, FENCE + text + COMMIT + _wait()))


@pytest.mark.parametrize("a_layout", LAYOUTS)
@pytest.mark.parametrize("b_layout", LAYOUTS)
def test_layouts_and_transposes(
    run: Callable[..., Any], a_layout: tuple[int, bool], b_layout: tuple[int, bool]
) -> None:
    product = Product(64, "f16", a_layout, b_layout)
    constants = f"1, 1, {int(not a_layout[1])}, {int(not b_layout[1])}"
    product.check(product.run(run, FENCE + _mma(64, "f16", "%a", constants) + COMMIT + _wait()))


@pytest.mark.parametrize(("constants", "scale"), [("-1, 1", -1), ("1, -1", -1), ("-1, -1", 1)])
@pytest.mark.parametrize("a", ["%a", "{%a0, %a1, %a2, %a3}"])
def test_negated_operands(run: Callable[..., Any], a: str, constants: str, scale: int) -> None:
    product = Product(16)
    text = _mma(16, "bf16", a, constants + (", 0, 0" if a == "%a" else ", 0"))
    product.check(product.run(run, FENCE + text + COMMIT + _wait()), scale)


def test_without_scale_d_the_registers_are_not_read(run: Callable[..., Any]) -> None:
    product = Product(32)
    product.registers["d0"] = np.full(128, np.nan, np.float32)
    text = FENCE + _mma(32, "bf16", "%a", "1, 1, 0, 0") + COMMIT + _wait()
    product.check(product.run(run, text, accumulates=False), accumulates=False)


def test_products_of_one_shape_follow_each_other_without_waiting(run: Callable[..., Any]) -> None:
    product = Product(8)
    found = product.run(run, FENCE + 2 * _mma(8, "bf16", "%a", "1, 1, 0, 0") + COMMIT + _wait())
    product.check(found, scale=2)


# Twins: with the synchronisation nothing is reported, without it this.

PLAIN = _mma(8, "bf16", "%a", "1, 1, 0, 0")


def _reports(run: Callable[..., Any], text: str, columns: int = 8, **more: Any) -> list[Any]:
    reports: list[Any] = Product(columns).run(run, text, raise_on_report=False, **more).result.reports
    return reports


def _kinds(reports: list[Any]) -> set[str]:
    return {report.kind for report in reports}


@pytest.mark.parametrize("fences", [True, False])
def test_fence_before_the_first_product(run: Callable[..., Any], fences: bool) -> None:
    reports = _reports(run, FENCE * fences + PLAIN + COMMIT + _wait())
    assert [report.title for report in reports] == [
        "wgmma.mma_async without wgmma.fence since its registers were touched"
    ] * (not fences)


@pytest.mark.parametrize("fences", [True, False])
def test_fence_after_registers_were_touched(run: Callable[..., Any], fences: bool) -> None:
    touch = "add.f32 %d0, %d0, 0f3F800000;"
    reports = _reports(run, FENCE + PLAIN + COMMIT + _wait() + touch + FENCE * fences + PLAIN + COMMIT + _wait())
    assert _kinds(reports) == (set() if fences else {"race"})


@pytest.mark.parametrize("waits", [True, False])
def test_registers_are_touched_after_the_wait(run: Callable[..., Any], waits: bool) -> None:
    reports = _reports(run, FENCE + PLAIN + COMMIT + _wait() * waits)
    assert _kinds(reports) == (set() if waits else {"race", "not_awaited"})
    if not waits:
        race = next(report for report in reports if report.kind == "race")
        assert race.title == "a register of wgmma.mma_async is used before wgmma.wait_group"
        exited = next(report for report in reports if report.kind == "not_awaited")
        assert exited.title == "wgmma.mma_async is not awaited before its warp exits"
        assert exited.second.text.startswith("wgmma.mma_async")


@pytest.mark.parametrize("commits", [True, False])
def test_a_wait_covers_committed_groups(run: Callable[..., Any], commits: bool) -> None:
    reports = _reports(run, FENCE + PLAIN + COMMIT * commits + _wait())
    assert _kinds(reports) == (set() if commits else {"race", "not_awaited"})


@pytest.mark.parametrize("newest", [0, 1, 2])
def test_a_wait_leaves_the_newest_groups(run: Callable[..., Any], newest: int) -> None:
    other = ".reg .f32 %e<4>;" + "".join(f"mov.f32 %e{i}, 0f00000000;" for i in range(4))
    second = _mma(8, "bf16", "%a", "1, 1, 0, 0", d="e")
    touch = {0: "mov.f32 %e0, 0f00000000;", 1: "mov.f32 %d0, 0f00000000;", 2: "mov.f32 %d0, 0f00000000;"}[newest]
    reports = _reports(run, other + FENCE + PLAIN + COMMIT + second + COMMIT + _wait(newest) + touch + _wait())
    assert _kinds(reports) == ({"race"} if newest == 2 else set())


THREAD_0 = ".reg .b32 %t; .reg .pred %q; mov.u32 %t, %tid.x; setp.eq.u32 %q, %t, 0;"


@pytest.mark.parametrize("fences", [True, False])
@pytest.mark.parametrize("place", [0, B_START])
def test_operands_that_threads_wrote_need_a_proxy_fence(run: Callable[..., Any], place: int, fences: bool) -> None:
    store = THREAD_0 + f"@%q st.shared.b32 [%shared+{place}], 0;" + "fence.proxy.async.shared::cta;" * fences
    reports = _reports(run, store + "bar.sync 0;" + FENCE + PLAIN + COMMIT + _wait())
    assert _kinds(reports) == (set() if fences else {"race"})
    if not fences:
        assert "wgmma" in reports[0].text and reports[0].second.text.startswith("wgmma.mma_async")


@pytest.mark.parametrize("waits", [True, False])
def test_operands_are_overwritten_after_the_wait(run: Callable[..., Any], waits: bool) -> None:
    text = (
        THREAD_0 + FENCE + PLAIN + COMMIT + _wait() * waits + f"bar.sync 0; @%q st.shared.b32 [%shared+{B_START}], 0;"
    )
    reports = _reports(run, text + _wait())
    assert _kinds(reports) == (set() if waits else {"race"})


def test_a_warp_reads_only_its_own_rows_of_a(run: Callable[..., Any]) -> None:
    # Row 16 belongs to warp 1: warp 0, which waits for nobody, may change row 0 when its own product is complete.
    text = THREAD_0 + FENCE + PLAIN + COMMIT + _wait() + "@%q st.shared.b32 [%shared], 0;"
    assert _reports(run, text) == []
    assert _kinds(_reports(run, text.replace("[%shared]", "[%shared+2048]"))) == {"race"}


@pytest.mark.parametrize(("a", "kind"), [(0, "out_of_bounds"), ((SHARED_BASE + 80 * 1024) >> 4, "out_of_bounds")])
def test_operands_lie_in_the_window(run: Callable[..., Any], a: int, kind: str) -> None:
    reports = _reports(run, FENCE + PLAIN + COMMIT + _wait(), a=np.uint64(a | 1 << 62 | 64 << 32))
    assert _kinds(reports) == {kind}
    assert reports[0].title == "operand A of wgmma.mma_async lies outside the CTA's shared memory"


def test_what_is_not_modelled_in_a_descriptor_is_refused(run: Callable[..., Any]) -> None:
    reports = _reports(run, FENCE + PLAIN + COMMIT + _wait(), a=np.uint64(64 | 1 << 49))
    assert _kinds(reports) == {"undefined"}


def test_lanes_agree(run: Callable[..., Any]) -> None:
    product = Product(8)
    for name, values in (("a", product.a_descriptor + (THREAD % 2).astype(np.uint64)), ("p", THREAD % 2 == 0)):
        differing: dict[str, Any] = {name: values}
        reports = _reports(run, FENCE + PLAIN + COMMIT + _wait(), **differing)
        assert _kinds(reports) == {"undefined"} and "lanes give" in reports[0].title


def test_a_warpgroup_has_four_warps(simulate: Callable[..., Any]) -> None:
    kernel = f"""
.version 8.8
.target sm_90a
.address_size 64
.visible .entry few() .reqntid 96, 1, 1
{{
.reg .f32 %d<4>; .reg .b64 %a, %b; .reg .pred %p;
mov.f32 %d0, 0f00000000; mov.f32 %d1, 0f00000000; mov.f32 %d2, 0f00000000; mov.f32 %d3, 0f00000000;
mov.b64 %a, 64; mov.b64 %b, 64; setp.eq.s32 %p, 0, 0;
{FENCE}{PLAIN}{COMMIT}{_wait()}
ret;
}}"""
    reports = simulate(kernel, raise_on_report=False).reports
    assert [report.title for report in reports] == ["wgmma.mma_async needs a whole warpgroup, four warps"]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (PLAIN.replace("%d2, %d3}", "%d2}"), "D is a vector of 4 registers; got 3"),
        (_mma(8, "bf16", "{%a0, %a1}", "1, 1, 0"), "A is a vector of 4 registers; got 2"),
        (_mma(8, "bf16", "{%a0, %a1, %a2, %a3}", "1, 1, 0, 0"), "only B has a transpose flag"),
        (_mma(8, "bf16", "%a", "1, 1, 0"), "both A and B have a transpose flag"),
        (_mma(8, "bf16", "%a", "0, 1, 0, 0"), "imm-scale-a is 0: it must be 1 or -1"),
        (_mma(8, "bf16", "%a", "1, 2, 0, 0"), "imm-scale-b is 2"),
        (_mma(8, "bf16", "%a", "1, 1, -1, 0"), "imm-trans-a is -1: it must be 0 or 1"),
        (_mma(8, "bf16", "%a", "1, 1, 0, 2"), "imm-trans-b is 2"),
        (PLAIN.replace("k16.f32.", "k16.f16."), "no instruction"),
    ],
)
def test_what_the_manual_does_not_allow_is_refused(run: Callable[..., Any], wrong: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Product(8).run(run, wrong)
