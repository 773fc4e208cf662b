"""mbarrier: counts, transactions, phases (PTX ISA, "Parallel Synchronization and Communication: mbarrier")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_text import SCHEDULES, kernel, schedule_name

LANE = np.arange(32, dtype=np.uint32)
schedules = pytest.mark.parametrize("options", SCHEDULES, ids=schedule_name)


def _phases(run: Callable[..., Any], init: int, steps: list[str]) -> list[bool]:
    """Whether parity 0 has passed after each step, of which one lane executes all."""
    test = "mbarrier.test_wait.parity.shared::cta.b64 %p{0}, [%scratch], 0;"
    text = f"mbarrier.init.shared::cta.b64 [%scratch], {init};\n"
    text += "\n".join(step + test.format(i) for i, step in enumerate(steps))
    out = {f"p{i}": np.bool_ for i in range(len(steps))}
    found = run(text, active=1, scratch=16, out=out)
    return [bool(found[f"p{i}"][0]) for i in range(len(steps))]


ARRIVE = "mbarrier.arrive.shared.b64 _, [%scratch];"


def test_a_phase_ends_with_the_last_arrival(run: Callable[..., Any]) -> None:
    assert _phases(run, 3, ["", ARRIVE, ARRIVE, ARRIVE]) == [False, False, False, True]


def test_the_next_phase_expects_as_many(run: Callable[..., Any]) -> None:
    assert _phases(run, 2, [ARRIVE, ARRIVE, ARRIVE, ARRIVE]) == [False, True, True, False]


@pytest.mark.parametrize(
    "arrive",
    [
        "mbarrier.arrive.shared.b64 _, [%scratch], 3;", "mbarrier.arrive.shared::cta.b64 %state, [%scratch], 3;",
        "mbarrier.arrive.release.cta.shared::cta.b64 _, [%scratch], 3;",
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%scratch], 3;",
        "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%scratch], 3;",
    ],
)  # fmt: skip
def test_several_arrivals_at_once(run: Callable[..., Any], arrive: str) -> None:
    text = arrive.replace("%state", "%l")
    steps = [f".reg .b64 %l; {text}" if "%l" in text else text, ARRIVE]
    assert _phases(run, 4, steps) == [False, True]


def test_every_lane_counts(run: Callable[..., Any]) -> None:
    text = """
@%first mbarrier.init.shared.b64 [%scratch], %n;
bar.warp.sync -1;
mbarrier.arrive.shared.b64 _, [%scratch], %c;
bar.warp.sync -1;
mbarrier.test_wait.parity.shared.b64 %p, [%scratch], 0;"""
    for missing in (0, 1):
        n = int((LANE + 1).sum()) + missing
        found = run(text, first=LANE == 0, n=n, c=LANE + 1, scratch=16, out={"p": np.bool_})
        np.testing.assert_array_equal(found["p"], np.full(32, missing == 0))


def test_lanes_may_name_different_barriers(run: Callable[..., Any]) -> None:
    text = """
mbarrier.init.shared.b64 [%at], 2;
bar.warp.sync -1;
mbarrier.arrive.shared.b64 _, [%next];
@%even mbarrier.arrive.shared.b64 _, [%at];
bar.warp.sync -1;
mbarrier.test_wait.parity.shared.b64 %p, [%at], 0;
mbarrier.test_wait.parity.acquire.cta.shared.b64 %q, [%at], 1;"""
    at, following = 1024 + 8 * LANE, 1024 + 8 * ((LANE + 1) % 32)
    found = run(text, at=at, next=following, even=LANE % 2 == 0, scratch=256, out={"p": np.bool_, "q": np.bool_})
    np.testing.assert_array_equal(found["p"], LANE % 2 == 0)
    np.testing.assert_array_equal(found["q"], LANE % 2 == 1)


EXPECT = "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%scratch], {};"


@pytest.mark.parametrize(
    "arrive",
    [
        "mbarrier.arrive.expect_tx.shared.b64 _, [%scratch], 32;",
        "mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%scratch], 32;",
        EXPECT.format(32) + ARRIVE,
        EXPECT.format(16) + EXPECT.format(16).replace("cta.", "cluster.", 1) + ARRIVE,
    ],
)
def test_a_phase_waits_for_announced_bytes(run: Callable[..., Any], arrive: str) -> None:
    copy = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%scratch+{}], [%data], 16, [%scratch];"
    test = "mbarrier.test_wait.parity.shared.b64 %{}, [%scratch], 0;"
    text = f"""
mbarrier.init.shared.b64 [%scratch], 1;
fence.mbarrier_init.release.cluster;
{arrive}
{test.format("p")}
{copy.format(16)}
{test.format("q")}
{copy.format(32)}
{test.format("r")}"""
    out = dict.fromkeys("pqr", np.bool_)
    data = np.zeros(16, np.uint8)
    found = run(text, active=1, scratch=64, memory={"data": data}, out=out)
    assert [bool(found[name][0]) for name in "pqr"] == [False, False, True]


def test_bytes_may_come_before_they_are_announced(run: Callable[..., Any]) -> None:
    text = f"""
mbarrier.init.shared.b64 [%scratch], 1;
fence.mbarrier_init.release.cluster;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%scratch+16], [%data], 16, [%scratch];
mbarrier.test_wait.parity.shared.b64 %p, [%scratch], 0;
{EXPECT.format(16)}
{ARRIVE}
mbarrier.test_wait.parity.shared.b64 %q, [%scratch], 0;"""
    found = run(text, active=1, scratch=64, memory={"data": np.zeros(16, np.uint8)}, out=dict.fromkeys("pq", np.bool_))
    assert (bool(found["p"][0]), bool(found["q"][0])) == (False, True)


def test_a_place_is_used_again_after_inval(run: Callable[..., Any]) -> None:
    text = f"""
mbarrier.init.shared.b64 [%scratch], 1;
{ARRIVE}
mbarrier.inval.shared.b64 [%scratch];
st.shared.b64 [%scratch], 0;
mbarrier.init.shared::cta.b64 [%scratch], 2;
mbarrier.test_wait.parity.shared.b64 %p, [%scratch], 0;"""
    assert not run(text, active=1, scratch=16, out={"p": np.bool_})["p"].any()


# Two warps take turns, four times.
PING_PONG = """
mov.u32 %r0, %tid.x; mov.b32 %r1, dynamic; setp.eq.u32 %p0, %r0, 0; ld.param.b64 %l0, [out];
@%p0 mbarrier.init.shared.b64 [%r1], 32;
@%p0 mbarrier.init.shared.b64 [%r1+8], 32;
bar.sync 0;
and.b32 %r2, %r0, 31; shl.b32 %r3, %r2, 2; add.u32 %r3, %r3, %r1; mov.b32 %r4, 0;
setp.ge.u32 %p1, %r0, 32; @%p1 bra consumer;
produce:
xor.b32 %r5, %r4, 1; and.b32 %r5, %r5, 1;
empty: mbarrier.try_wait.parity{acquire}.shared::cta.b64 %p2, [%r1+8], %r5{hint};
@!%p2 bra empty;
mad.lo.u32 %r6, %r4, 100, %r2;
st.shared.b32 [%r3+16], %r6;
mbarrier.arrive.shared.b64 _, [%r1];
add.u32 %r4, %r4, 1; setp.lt.u32 %p3, %r4, 4; @%p3 bra produce;
bra end;
consumer:
mov.b32 %r7, 0;
consume:
and.b32 %r5, %r4, 1;
full: mbarrier.try_wait.parity{acquire}.shared::cta.b64 %p2, [%r1], %r5{hint};
@!%p2 bra full;
ld.shared.b32 %r6, [%r3+16]; add.u32 %r7, %r7, %r6;
mbarrier.arrive.shared.b64 _, [%r1+8];
add.u32 %r4, %r4, 1; setp.lt.u32 %p3, %r4, 4; @%p3 bra consume;
mul.wide.u32 %l1, %r2, 4; add.u64 %l0, %l0, %l1; st.global.b32 [%l0], %r7;
end:
"""


@schedules
@pytest.mark.parametrize(("acquire", "hint"), [("", ""), (".acquire.cta", ", 1000"), (".acquire.cluster", "")])
def test_ping_pong(simulate: Callable[..., Any], acquire: str, hint: str, options: dict[str, Any]) -> None:
    out = np.zeros(32, np.uint32)
    text = kernel(PING_PONG.format(acquire=acquire, hint=hint), ".param .u64 out", 64)
    simulate(text, dynamic_shared=144, arguments=[out], **options)
    np.testing.assert_array_equal(out, 600 + 4 * LANE)


def test_try_wait_fails_at_random(simulate: Callable[..., Any]) -> None:
    text = kernel(PING_PONG.format(acquire="", hint=""), ".param .u64 out", 64)
    counts = set()
    for seed in range(8):
        result = simulate(text, dynamic_shared=144, arguments=[np.zeros(32, np.uint32)], schedule="random", seed=seed)
        counts.add(sum(int(n) for n, t in zip(result.executed, result.kernel.text, strict=True) if "try_wait" in t))
    assert min(counts) >= 8 and max(counts) > 8


def test_a_trace_of_one_mbarrier(simulate: Callable[..., Any]) -> None:
    text = kernel(PING_PONG.format(acquire="", hint=""), ".param .u64 out", 64)
    trace = {"trace_mbarrier": 1032, "trace_warp": -1, "trace_cluster": 0}
    lines = simulate(text, dynamic_shared=144, arguments=[np.zeros(32, np.uint32)], **trace).trace
    assert "init by warp 0" in lines[0] and sum(" arrive by warp 1" in line for line in lines) == 4


INIT = "mbarrier.init.shared.b64 [%scratch], 2;"


@pytest.mark.parametrize(
    ("text", "kind", "title"),
    [
        ("mbarrier.init.shared.b64 [%scratch], 0;", "barrier", "mbarrier.init takes a count of 1 to 1048575"),
        ("mbarrier.init.shared.b64 [%scratch], 0x100000;", "barrier", "mbarrier.init takes a count of 1 to 1048575"),
        ("mbarrier.init.shared.b64 [%scratch+4], 1;", "misaligned", "shared access must be aligned to 8 bytes"),
        ("mbarrier.init.shared.b64 [%scratch+64], 1;", "out_of_bounds", "access outside the CTA's shared memory"),
        (INIT + INIT, "barrier", "mbarrier.init of an mbarrier that is in use"),
        (ARRIVE, "uninitialised", "mbarrier is used before mbarrier.init"),
        (
            "mbarrier.test_wait.parity.shared.b64 %p, [%scratch], 0;", "uninitialised",
            "mbarrier is used before mbarrier.init",
        ),
        ("mbarrier.inval.shared.b64 [%scratch];", "uninitialised", "mbarrier is used before mbarrier.init"),
        (
            INIT + "mbarrier.inval.shared.b64 [%scratch];" + ARRIVE, "uninitialised",
            "mbarrier is used before mbarrier.init",
        ),
        (
            INIT + "mbarrier.arrive.shared.b64 _, [%scratch], 3;", "barrier",
            "more arrivals than the mbarrier expects in this phase",
        ),
        (
            INIT + "mbarrier.arrive.shared.b64 _, [%scratch], 0;", "barrier",
            "mbarrier.arrive takes a count of 1 to 1048575",
        ),
        (INIT + EXPECT.format("0x100000"), "barrier", "expect_tx of more bytes than a tx-count holds"),
        (INIT + EXPECT.format("0xFFFFF") + EXPECT.format(1), "barrier", "the mbarrier's tx-count overflows"),
    ],
)  # fmt: skip
def test_faults(run: Callable[..., Any], text: str, kind: str, title: str) -> None:
    reports = run(text, active=1, scratch=64, out={"p": np.bool_}, raise_on_report=False).result.reports
    assert [(report.kind, report.title) for report in reports] == [(kind, title)]


def test_a_thread_waits_for_its_own_ctas_barriers(simulate: Callable[..., Any]) -> None:
    body = """
mov.b32 %r0, dynamic; mov.u32 %r1, %tid.x; setp.eq.u32 %p0, %r1, 0;
@%p0 mbarrier.init.shared.b64 [%r0], 1;
barrier.cluster.arrive; barrier.cluster.wait;
mapa.shared::cluster.u32 %r2, %r0, 1; mov.u32 %r3, %cluster_ctarank;
setp.eq.u32 %p1, %r3, 0; and.pred %p1, %p1, %p0;
@%p1 mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0;"""
    (report,) = simulate(kernel(body, threads=32), grid=2, cluster=2, dynamic_shared=16, raise_on_report=False).reports
    assert report.title == "a thread can wait only for mbarriers of its own CTA"
