"""Register pool, work stealing, prefetches, griddepcontrol, and cp.async."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from jax_fa4_simulator import empty

SCHEDULES = [("eager", 0), ("lazy", 0), ("random", 1), ("random", 2)]
LANE = np.arange(32)


def _kernel(body: str, parameters: str = "", threads: int = 128, target: str = "sm_100a") -> str:
    return f"""
.version 8.8
.target {target}
.address_size 64
.extern .shared .align 1024 .b8 dynamic[];
.visible .entry kernel({parameters})
.reqntid {threads}, 1, 1
{{
.reg .pred %p<4>; .reg .b32 %r<32>; .reg .b64 %l<8>; .reg .b128 %handle;
{body}
ret;
}}"""


def _kinds(reports: list[Any]) -> set[str]:
    return {report.kind for report in reports}


# setmaxnreg: 384 threads start with 168 registers each, 1024 of 65536 are left.


def _registers(simulate: Callable[..., Any], first: str, others: str, **options: Any) -> list[Any]:
    body = f"""
mov.u32 %r0, %tid.x; setp.ge.u32 %p0, %r0, 128;
@%p0 bra others;
{first}
bra end;
others: {others}
end:"""
    reports: list[Any] = simulate(_kernel(body, threads=384), raise_on_report=False, **options).reports
    return reports


@pytest.mark.parametrize(("schedule", "seed"), SCHEDULES)
@pytest.mark.parametrize("gives", [True, False])
def test_registers_move_through_the_pool(simulate: Callable[..., Any], gives: bool, schedule: str, seed: int) -> None:
    wait = "bar.sync 1, 384;"  # else the pool gets what the first warps give back when they exit
    first = "setmaxnreg.dec.sync.aligned.u32 24;" * gives + wait
    reports = _registers(simulate, first, "setmaxnreg.inc.sync.aligned.u32 240;" + wait, schedule=schedule, seed=seed)
    assert [report.title for report in reports] == ["setmaxnreg waits for registers that no warp will give back"] * (
        not gives
    )
    assert _kinds(reports) == (set() if gives else {"registers"})


def test_registers_of_warps_that_exit_go_back(simulate: Callable[..., Any]) -> None:
    assert _registers(simulate, "", "setmaxnreg.inc.sync.aligned.u32 240;") == []


@pytest.mark.parametrize(
    ("text", "title"),
    [("dec.sync.aligned.u32 176;", "setmaxnreg.dec to more"), ("inc.sync.aligned.u32 160;", "setmaxnreg.inc to fewer")],
)
def test_setmaxnreg_in_the_wrong_direction(simulate: Callable[..., Any], text: str, title: str) -> None:
    # Only the first one counts for sure: what a warp enters with is ptxas's choice.
    counted = "setmaxnreg.dec.sync.aligned.u32 168; "
    reports = _registers(simulate, f"{counted}setmaxnreg.{text}", "")
    assert _kinds(reports) == {"registers"} and reports[0].title.startswith(title)
    assert _registers(simulate, f"{counted}setmaxnreg.{text[:3]}.sync.aligned.u32 168;", "") == []
    assert _registers(simulate, f"setmaxnreg.{text}", "") == []


@pytest.mark.parametrize("count", [16, 28, 264])
def test_setmaxnreg_counts(simulate: Callable[..., Any], count: int) -> None:
    with pytest.raises(
        ValueError, match=f"the count of registers is {count}: it must be a multiple of 8 from 24 to 256"
    ):
        _registers(simulate, f"setmaxnreg.dec.sync.aligned.u32 {count};", "")


# What has no effect.


@pytest.mark.parametrize(
    "text",
    [
        "griddepcontrol.wait;",
        "griddepcontrol.launch_dependents;",
        "prefetch.global.L2 [%a];",
        "prefetch.L1 [%a];",
        "prefetch.global.L2::evict_last [%a];",
        "prefetchu.L1 [%a];",
        "prefetch.tensormap [%a];",
        "prefetch.param.tensormap [%a];",
        "cp.async.bulk.prefetch.L2.global [%a], 16;",
        "cp.async.bulk.prefetch.L2.global.L2::cache_hint [%a], 16, %a;",
        "cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%a, {%r, %r}];",
        "cp.async.bulk.prefetch.tensor.3d.L2.global.L2::cache_hint [%a, {%r, %r, %r}], %a;",
    ],
)
def test_no_effect(run: Callable[..., Any], text: str) -> None:
    array = empty(32, np.uint32)
    array[:] = LANE
    run(text, memory={"a": array}, r=0)
    np.testing.assert_array_equal(array, LANE)


# clusterlaunchcontrol: clusters that run take over those that have not started.

TRY_CANCEL = "clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes"
QUERY = "clusterlaunchcontrol.query_cancel"


def _stealing(
    *, multicast: bool = False, vector: bool = False, waits: bool = True, meets: bool = True, elects: bool = True
) -> str:
    """Counts how often each CTA's work is done in out[z][y][x], and CTAs that started in started[0]."""
    hint = ".multicast::cluster::all" if multicast else ""
    ask = "@!%p1 bra asked;" if elects else ""
    rank = "mov.u32 %r9, %cluster_ctarank; setp.ne.u32 %p1, %r9, 0; @%p1 bra asked;" if multicast else ""
    first = (
        f"{QUERY}.get_first_ctaid.v4.b32.b128 {{%r1, %r2, %r3, _}}, %handle;"
        if vector
        else "\n".join(f"{QUERY}.get_first_ctaid::{axis}.b32.b128 %r{i + 1}, %handle;" for i, axis in enumerate("xyz"))
    )
    wait = """
wait: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r10+16], %r11;
@!%p2 bra wait;"""
    return _kernel(
        f"""
ld.param.b64 %l0, [out]; ld.param.b64 %l1, [started];
mov.b32 %r10, dynamic; mov.u32 %r0, %tid.x; setp.eq.u32 %p0, %r0, 0; mov.b32 %r11, 0;
@!%p0 bra ready;
mbarrier.init.shared::cta.b64 [%r10+16], 1;
fence.mbarrier_init.release.cluster;
red.relaxed.gpu.global.add.u32 [%l1], 1;
ready:
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %ctaid.z;
bra work;
next:
mov.u32 %r9, %cluster_ctaid.x; add.u32 %r1, %r1, %r9;
work:
mov.u32 %r4, %nctaid.x; mov.u32 %r5, %nctaid.y;
mad.lo.u32 %r6, %r3, %r5, %r2; mad.lo.u32 %r6, %r6, %r4, %r1; mul.wide.u32 %l2, %r6, 4; add.u64 %l2, %l0, %l2;
@%p0 red.relaxed.gpu.global.add.u32 [%l2], 1;
setp.lt.u32 %p1, %r0, 32;
@!%p1 bra asked;
{"elect.sync _|%p1, -1;" if elects else ""}
@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10+16], 16;
{ask}
{rank}
{TRY_CANCEL}{hint}.b128 [%r10], [%r10+16];
asked:
{wait if waits else ""}
xor.b32 %r11, %r11, 1;
ld.shared.v2.b64 {{%l3, %l4}}, [%r10];
mov.b128 %handle, {{%l3, %l4}};
{QUERY}.is_canceled.pred.b128 %p3, %handle;
{first}
{"barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" if meets else ""}
@%p3 bra next;""",
        ".param .u64 out, .param .u64 started",
    )


def _steal(simulate: Callable[..., Any], text: str, cluster: int = 1, **options: Any) -> tuple[Any, np.ndarray, int]:
    done, started = np.zeros((2, 3, 4), np.uint32), np.zeros(1, np.uint32)
    result = simulate(text, grid=(4, 3, 2), cluster=cluster, dynamic_shared=64, arguments=(done, started), **options)
    return result, done, int(started[0])


@pytest.mark.parametrize(("schedule", "seed"), SCHEDULES)
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("multicast", [False, True])
def test_work_stealing(simulate: Callable[..., Any], multicast: bool, vector: bool, schedule: str, seed: int) -> None:
    text = _stealing(multicast=multicast, vector=vector)
    cluster = 2 if multicast else 1
    _, done, started = _steal(simulate, text, cluster, schedule=schedule, seed=seed, resident_clusters=2)
    np.testing.assert_array_equal(done, np.ones_like(done))
    assert started == 2 * cluster


def test_work_stealing_on_several_threads(simulate: Callable[..., Any]) -> None:
    _, done, started = _steal(simulate, _stealing(), threads=2)
    np.testing.assert_array_equal(done, np.ones_like(done))
    assert 1 <= started <= 24


def test_the_answer_is_read_after_the_wait(simulate: Callable[..., Any]) -> None:
    result, *_ = _steal(simulate, _stealing(waits=False), raise_on_report=False)
    assert "race" in _kinds(result.reports)
    race = next(report for report in result.reports if report.kind == "race")
    assert "clusterlaunchcontrol" in race.text


@pytest.mark.parametrize(("schedule", "seed"), SCHEDULES)
def test_the_answer_is_read_before_the_next_one(simulate: Callable[..., Any], schedule: str, seed: int) -> None:
    options = {"raise_on_report": False, "max_instructions": 100_000}
    result, *_ = _steal(simulate, _stealing(meets=False), schedule=schedule, seed=seed, **options)
    assert "race" in _kinds(result.reports)


def test_one_lane_asks(simulate: Callable[..., Any]) -> None:
    result, *_ = _steal(simulate, _stealing(elects=False), raise_on_report=False)
    assert "unelected" in _kinds(result.reports)


def test_the_answer_comes_to_the_own_cta(simulate: Callable[..., Any]) -> None:
    body = f"""
mov.b32 %r0, dynamic; mapa.shared::cluster.u32 %r1, %r0, 1; mov.u32 %r2, %cluster_ctarank; mov.u32 %r3, %tid.x;
or.b32 %r2, %r2, %r3; setp.ne.u32 %p0, %r2, 0;
@%p0 bra end;
{TRY_CANCEL}.b128 [%r1], [%r1+16];
end:"""
    reports = simulate(_kernel(body), grid=2, cluster=2, dynamic_shared=64, raise_on_report=False).reports
    assert [report.title for report in reports] == ["clusterlaunchcontrol.try_cancel takes addresses of its own CTA"]


# cp.async


def _source() -> np.ndarray:
    source = empty(512, np.uint8)
    source[:] = np.arange(512) % 251 + 1
    return source


COPY = "cp.async.{0}.shared.global [%to], [%from], {1}{2};"


def _copied(
    run: Callable[..., Any], text: str, size: int = 16, memory: dict[str, Any] | None = None, **more: Any
) -> Any:
    source = _source()
    to = 1024 + LANE * size
    addresses = source.ctypes.data + LANE.astype(np.uint64) * size
    registers: dict[str, Any] = {"to": to, "from": addresses, **more}
    return run(text, memory={"source": source, **(memory or {})}, shared=np.zeros(512, np.uint8), **registers)


@pytest.mark.parametrize(("schedule", "seed"), SCHEDULES)
@pytest.mark.parametrize("wait", ["cp.async.commit_group; cp.async.wait_group 0;", "cp.async.wait_all;"])
@pytest.mark.parametrize(("kind", "size"), [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)])
def test_cp_async(run: Callable[..., Any], kind: str, size: int, wait: str, schedule: str, seed: int) -> None:
    options = {"schedule": schedule, "seed": seed}
    found = _copied(run, COPY.format(kind, size, "") + wait, size, options=options)
    np.testing.assert_array_equal(found["shared"][: 32 * size], _source()[: 32 * size])
    assert not found["shared"][32 * size :].any()


def test_cp_async_hints(run: Callable[..., Any]) -> None:
    hints = "cp.async.cg.shared::cta.global.L2::cache_hint.L2::128B [%to], [%from], 16, %policy; cp.async.wait_all;"
    found = _copied(run, hints, policy=np.uint64(0))
    np.testing.assert_array_equal(found["shared"], _source())


@pytest.mark.parametrize("size", [4, 8, 16])
def test_cp_async_fills_with_zeros(run: Callable[..., Any], size: int) -> None:
    read = LANE % (size + 1)
    found = _copied(run, COPY.format("ca", size, ", %n") + "cp.async.wait_all;", size, n=read.astype(np.uint32))[
        "shared"
    ]
    expected = _source()[: 32 * size].reshape(32, size) * (np.arange(size) < read[:, None])
    np.testing.assert_array_equal(found[: 32 * size].reshape(32, size), expected)


def test_a_source_that_is_not_read_may_lie_anywhere(run: Callable[..., Any]) -> None:
    text = COPY.format("cg", 16, ", 0").replace("[%from]", "[%nowhere]") + "cp.async.wait_all;"
    assert not _copied(run, text, nowhere=np.uint64(16))["shared"].any()


def test_cp_async_groups_wait_for_the_older(run: Callable[..., Any]) -> None:
    commit, read = "cp.async.commit_group;", "ld.shared.b32 %x, [%to];"
    two = COPY.format("ca", 4, "") + commit + COPY.format("ca", 4, "").replace("[%to]", "[%to+128]") + commit
    text = two + "cp.async.wait_group {};" + read
    for schedule, seed in SCHEDULES:
        options = {"schedule": schedule, "seed": seed}
        found = _copied(run, text.format(1) + "cp.async.wait_all;", 4, options=options)
        np.testing.assert_array_equal(found["x"].view(np.uint8), _source()[:128])
    found = _copied(run, text.format(2) + "cp.async.wait_all;", 4, raise_on_report=False)
    assert _kinds(found.result.reports) == {"race"}
    assert "cp.async" in found.result.reports[0].text


def test_cp_async_is_awaited_before_the_exit(simulate: Callable[..., Any]) -> None:
    body = "ld.param.b64 %l0, [in]; mov.b32 %r0, dynamic; cp.async.ca.shared.global [%r0], [%l0], 4;"
    for wait, kinds in (
        ("cp.async.wait_all;", set()),
        ("cp.async.commit_group;", {"not_awaited"}),
        ("", {"not_awaited"}),
    ):
        kernel = _kernel(
            "mov.u32 %r1, %tid.x; setp.ne.u32 %p0, %r1, 0; @%p0 bra end;" + body + wait + "end:", ".param .u64 in"
        )
        reports = simulate(kernel, dynamic_shared=16, arguments=(_source(),), raise_on_report=False).reports
        assert _kinds(reports) == kinds


@pytest.mark.parametrize("fences", [True, False])
def test_cp_async_writes_by_the_generic_proxy(run: Callable[..., Any], fences: bool) -> None:
    fence = "fence.proxy.async.shared::cta;" * fences
    store = "cp.async.bulk.global.shared::cta.bulk_group [%out], [%to], 16;"
    text = f""".reg .pred %q; {COPY.format("cg", 16, "")} cp.async.wait_all; {fence}
elect.sync _|%q, -1; @!%q bra done; {store} cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; done:"""
    result = empty(16, np.uint8)
    found = _copied(run, text, memory={"out": result}, raise_on_report=False)
    assert _kinds(found.result.reports) == (set() if fences else {"race"})


@pytest.mark.parametrize(
    ("copy", "more", "kind"),
    [
        (COPY.format("cg", 16, ", %n"), {"n": 17}, "undefined"),
        (COPY.format("cg", 16, "").replace("[%to]", "[%to+4]"), {}, "misaligned"),
        (COPY.format("cg", 16, "").replace("[%from]", "[%from+4]"), {}, "misaligned"),
        (COPY.format("cg", 16, "").replace("[%from]", "[%from+16]"), {}, "out_of_bounds"),
        (COPY.format("cg", 16, "").replace("[%to]", "[%to+16]"), {}, "out_of_bounds"),
    ],
)
def test_cp_async_faults(run: Callable[..., Any], copy: str, more: dict[str, Any], kind: str) -> None:
    assert _kinds(_copied(run, copy + "cp.async.wait_all;", raise_on_report=False, **more).result.reports) == {kind}


@pytest.mark.parametrize(("kind", "size", "allowed"), [("cg", 8, "16"), ("ca", 12, "4, 8 or 16")])
def test_cp_async_sizes(run: Callable[..., Any], kind: str, size: int, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"the size is {size}: it must be {allowed}"):
        _copied(run, COPY.format(kind, size, ""))


# Counters by unit.


def test_operations_are_counted_by_unit(run: Callable[..., Any]) -> None:
    before = run("", x=1.0).result.counters
    text = "add.f32 %x, %x, %x; ex2.approx.f32 %x, %x; add.s32 %x, %x, %x;"
    after = run(text, x=1.0, out={"x": np.float32}).result.counters
    packed = run("fma.rn.f32x2 %y, %y, %y, %y;", y=np.uint64(0)).result.counters
    assert after["mufu_operations"] - before["mufu_operations"] == 32
    assert after["fma_operations"] - before["fma_operations"] == 32
    assert packed["fma_operations"] - before["fma_operations"] == 64
    assert packed["warp_instructions"] >= packed["issue_slots"] > 0
