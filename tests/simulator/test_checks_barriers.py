"""Barriers misused, deadlocks and livelocks: what every warp waits for, and the circle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_text import kernel, line_of
from twins import Twin, every_schedule

START = """
mov.b32 %r0, dynamic; mov.u32 %r1, %tid.x; setp.eq.u32 %p0, %r1, 0; mov.u32 %r2, %warpid; setp.eq.u32 %p1, %r2, 0;
"""
SHARED = {"launch": {"dynamic_shared": 8192}}
STUCK = "no warp can run, no asynchronous operation is pending"


def _wait(label: str, place: str = "%r0", parity: str = "0") -> str:
    return f"{label}: mbarrier.try_wait.parity.shared.b64 %p9, [{place}], {parity}; @!%p9 bra {label};"


# Two warps of 32 threads arrive.
TOO_MANY = Twin(
    "barrier",
    kernel(
        f"""{START}
@%p0 mbarrier.init.shared.b64 [%r0], 64;  // missing
bar.sync 0;
mbarrier.arrive.shared.b64 _, [%r0];  // second
""",
        threads=64,
    ),
    "barrier",
    "more arrivals than the mbarrier expects in this phase",
    instead="@%p0 mbarrier.init.shared.b64 [%r0], 48;",
    golden=True,
    **SHARED,
)

# Warp 0 fills, warp 1 takes, four rounds; the consumer gives the place back.
PING_PONG = """
@%p0 mbarrier.init.shared.b64 [%r0], {count};{mark}
@%p0 mbarrier.init.shared.b64 [%r0+8], 32;
bar.sync 0;
shl.b32 %r3, %r1, 2; and.b32 %r3, %r3, 127; add.u32 %r3, %r3, %r0; mov.b32 %r4, 0;
@!%p1 bra consumer;
produce:
and.b32 %r5, %r4, 1; xor.b32 %r6, %r5, 1;
{empty}
st.shared.b32 [%r3+16], %r4;
mbarrier.arrive.shared.b64 _, [%r0];
add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 4; @%p2 bra produce;
bra end;
consumer:
and.b32 %r5, %r4, 1; setp.eq.u32 %p3, %r4, 0;
{full}
ld.shared.b32 %r7, [%r3+16];
{give}
add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 4; @%p2 bra consumer;
end:
"""
EMPTY, FULL = _wait("empty", "%r0+8", "%r6"), _wait("full", "%r0", "%r5")
GIVE = "mbarrier.arrive.shared.b64 _, [%r0+8];"


def _ping_pong(name: str, instead: str, golden: bool = True, **parts: str) -> Twin:
    given = {"count": "32", "mark": "", "empty": EMPTY, "full": FULL, "give": GIVE, **parts}
    text = kernel(START + PING_PONG.format(**given), threads=64)
    text = text.replace("empty: mbarrier", "empty:\nmbarrier").replace("full: mbarrier", "full:\nmbarrier")
    text = text.replace("[%r0+8], %r6; @", "[%r0+8], %r6;  // second\n@")
    return Twin(name, text, "deadlock", STUCK, instead=instead, golden=golden, **SHARED)


CIRCLE = _ping_pong("deadlock", f"@%p3 {GIVE}", give=GIVE + "  // missing")
WRONG_COUNT = _ping_pong(
    "deadlock_wrong_count",
    "@%p0 mbarrier.init.shared.b64 [%r0], 33;",
    mark="  // missing",
)

MISSING_WARP = Twin(
    "deadlock_barrier",
    kernel(
        f"""{START}
@%p1 bra first;
bar.sync 1, 64;
bra end;
first:
mov.b32 %r3, 1;
bar.sync 1, 64;  // missing
bar.sync 2, 64;  // second
end:
""".replace("bar.sync 1, 64;\nbra end;", "bar.sync 1, 64;\nbar.sync 2, 64;\nbra end;"),
        threads=64,
    ),
    "deadlock",
    STUCK,
    golden=True,
)
CLUSTER = Twin(
    "deadlock_cluster",
    kernel(
        f"""{START}
mov.u32 %r3, %cluster_ctarank; setp.eq.u32 %p2, %r3, 0;
@%p0 mbarrier.init.shared.b64 [%r0], 1;
@%p0 fence.mbarrier_init.release.cluster;
barrier.cluster.arrive; barrier.cluster.wait;
@%p2 bra waiter;
mapa.shared::cluster.u32 %r4, %r0, 0;
mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r4];  // missing
bra end;
waiter:
wait:
mbarrier.try_wait.parity.acquire.cluster.shared.b64 %p9, [%r0], 0;  // second
@!%p9 bra wait;
end:
barrier.cluster.arrive; barrier.cluster.wait;
""",
        threads=1,
    ),
    "deadlock",
    STUCK,
    golden=True,
    launch={"grid": 2, "cluster": 2, "dynamic_shared": 16},
)

COPY = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r0+16], [%l0], 64, [%r0];"


def _bytes(name: str, announced: int) -> Twin:
    text = kernel(
        f"""{START} ld.param.b64 %l0, [data];
@%p0 mbarrier.init.shared.b64 [%r0], 1;
@%p0 fence.mbarrier_init.release.cluster;
bar.warp.sync -1;
@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r0], 64;  // missing
@%p0 {COPY}
wait:
mbarrier.try_wait.parity.shared.b64 %p9, [%r0], 0;  // second
@!%p9 bra wait;
""",
        ".param .u64 data",
        32,
    )
    return Twin(
        name,
        text,
        "deadlock",
        STUCK,
        golden=True,
        arguments=lambda: [np.zeros(32, np.uint32)],
        instead=f"@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r0], {announced};",
        **SHARED,
    )


OVERFLOW = Twin(
    "tx_overflow",
    kernel(
        f"""{START}
@%p0 mbarrier.init.shared.b64 [%r0], 1;
bar.warp.sync -1;
@%p0 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r0], 0xFFFFF;
mov.b32 %r3, 0;  // missing
@%p0 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r0], %r3;  // second
""",
        threads=32,
    ),
    "barrier",
    "the mbarrier's tx-count overflows",
    instead="mov.b32 %r3, 1;",
    golden=True,
    **SHARED,
)
TWO_COUNTS = Twin(
    "two_counts",
    kernel(
        f"""{START}
mov.b32 %r3, 64; @%p1 bra first;
mov.b32 %r3, 64;  // missing
first:
bar.sync 1, %r3;  // second
""",
        threads=64,
    ),
    "barrier",
    "threads of one barrier expect different numbers of threads",
    instead="mov.b32 %r3, 96;",
    golden=True,
)
OVERWRITTEN = Twin(
    "store_over_an_mbarrier",
    kernel(
        f"""{START}
@%p0 mbarrier.init.shared.b64 [%r0+64], 1;
bar.warp.sync -1;
shl.b32 %r3, %r1, 1;  // missing
add.u32 %r3, %r3, %r0;
st.shared.b16 [%r3], %h0;  // second
""",
        threads=32,
    ),
    "barrier",
    "store to the place of an mbarrier",
    instead="shl.b32 %r3, %r1, 2;",
    golden=True,
    **SHARED,
)
LIVELOCK = Twin(
    "livelock",
    kernel(
        """
mov.b32 %r0, 0;
again:
add.u32 %r0, %r0, 1;  // missing
setp.lt.u32 %p0, %r0, 100; @%p0 bra again;  // second
""",
        threads=1,
    ),
    "livelock",
    "a warp has executed more than 10000 instructions",
    launch={"max_instructions": 10000},
    golden=True,
)
REGISTERS = Twin(
    "registers",
    kernel(
        f"""{START}
setp.ge.u32 %p2, %r1, 128; @%p2 bra others;
setmaxnreg.dec.sync.aligned.u32 24;  // missing
bar.sync 1, 384;
bra end;
others:
setmaxnreg.inc.sync.aligned.u32 240;  // second
bar.sync 1, 384;
end:
""",
        threads=384,
    ),
    "registers",
    "setmaxnreg waits for registers that no warp will give back",
    golden=True,
)
GRID = Twin(
    "deadlock_grid",
    kernel(
        """
ld.param.b64 %l1, [flag]; mov.u32 %r1, %ctaid.x; setp.eq.u32 %p0, %r1, 0;
@%p0 st.release.gpu.global.b32 [%l1], 1;  // missing
wait: ld.acquire.gpu.global.b32 %r2, [%l1];
setp.eq.u32 %p1, %r2, 0; @%p1 bra wait;
""",
        ".param .u64 flag",
        1,
    ),
    "deadlock",
    "every cluster waits for a value in global memory that nobody will write",
    golden=True,
    launch={"grid": 2},
    arguments=lambda: [np.zeros(1, np.uint32)],
)

TWINS = [
    TOO_MANY,
    CIRCLE,
    WRONG_COUNT,
    MISSING_WARP,
    CLUSTER,
    _bytes("deadlock_bytes_missing", 128),
    _bytes("deadlock_bytes_more", 48),
    OVERFLOW,
    TWO_COUNTS,
    OVERWRITTEN,
    LIVELOCK,
    REGISTERS,
    GRID,
]


@every_schedule(TWINS)
def test_barriers(simulate: Callable[..., Any], twin: Twin, options: dict[str, Any]) -> None:
    twin.check(simulate, options)


def test_the_circle_is_named(simulate: Callable[..., Any]) -> None:
    (report,) = CIRCLE.reports(simulate, CIRCLE.wrong, {"schedule": "eager"})
    cycle = "warp 0 -> mbarrier 0x408 -> warp 1 -> mbarrier 0x400 -> warp 0 (by last arrivals)"
    assert report.lines[-1] == f"cycle   {cycle}"
    table = "\n".join(report.lines)
    for statement in ("[%r0+8], %r6;", "[%r0], %r5;"):
        assert f"ptx:{line_of(CIRCLE.wrong, statement)} waits for mbarrier" in table


@pytest.mark.parametrize("twin", [WRONG_COUNT, GRID], ids=lambda twin: twin.name)
def test_no_circle_is_made_up(simulate: Callable[..., Any], twin: Twin) -> None:
    (report,) = twin.reports(simulate, twin.wrong, {"schedule": "eager"})
    assert not any("cycle" in line for line in report.lines)


def test_the_last_arriver_is_not_its_own_circle(simulate: Callable[..., Any]) -> None:
    body = f"""{START}
@%p0 mbarrier.init.shared.b64 [%r0], 32;
bar.sync 0;
@%p1 bra first;
bar.sync 0;
first:
mbarrier.arrive.shared.b64 _, [%r0];
{_wait("one")}
{_wait("two", parity="1")}
bar.sync 0;
"""
    (report,) = simulate(kernel(body, threads=64), dynamic_shared=16, raise_on_report=False).reports
    assert not any("cycle" in line for line in report.lines)  # warp 0 is the last that arrived, and waits itself


def test_a_circle_of_ctas(simulate: Callable[..., Any]) -> None:
    body = """
mov.u32 %r0, %cluster_ctarank; setp.eq.u32 %p0, %r0, 0; mov.u32 %r1, %warpid; setp.eq.u32 %p1, %r1, 0;
@%p0 bra first;
barrier.cluster.arrive; barrier.cluster.wait;
bra end;
first:
@%p1 bra late;
bar.sync 0;
bra met;
late:
barrier.cluster.arrive; barrier.cluster.wait;
bar.sync 0;
bra end;
met:
barrier.cluster.arrive; barrier.cluster.wait;
end:"""
    (report,) = simulate(kernel(body, threads=64), grid=2, cluster=2, raise_on_report=False).reports
    cycle = "warp 0 of rank 0 -> barrier.cluster -> warp 1 of rank 0 -> barrier 0 -> warp 0 of rank 0"
    assert report.lines[-1] == f"cycle   {cycle}"
