"""bar, barrier, barrier.cluster, fences (PTX ISA, "Parallel Synchronization and Communication Instructions")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_text import SCHEDULES, kernel, schedule_name

schedules = pytest.mark.parametrize("options", SCHEDULES, ids=schedule_name)

# Each thread passes its number on to the one `far` threads further.
EXCHANGE = """
mov.u32 %r0, %tid.x; mov.b32 %r1, dynamic; shl.b32 %r2, %r0, 2; add.u32 %r2, %r2, %r1;
st.shared.b32 [%r2], %r0;
{barrier}
add.u32 %r3, %r0, 32; and.b32 %r3, %r3, 127; shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r1;
ld.shared.b32 %r4, [%r3];
ld.param.b64 %l0, [out]; mul.wide.u32 %l1, %r0, 4; add.u64 %l0, %l0, %l1;
st.global.b32 [%l0], %r4;
"""
SPELLINGS = [
    "bar.sync 0;", "bar.sync 3, 128;", "barrier.sync 0;", "bar.cta.sync 1;", "barrier.cta.sync 2, 128;",
    "bar.cta.sync.aligned 0;", "barrier.cta.sync.aligned 15, 128;", "barrier.sync.aligned 0;",
    "barrier.sync.aligned 4, 128;", "mov.b32 %r10, 5; mov.b32 %r11, 128; bar.sync %r10, %r11;",
    "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
    "barrier.cluster.arrive.release; barrier.cluster.wait.acquire;",
    "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;",
]  # fmt: skip


@schedules
@pytest.mark.parametrize("barrier", SPELLINGS)
def test_all_threads_meet(simulate: Callable[..., Any], barrier: str, options: dict[str, Any]) -> None:
    out = np.zeros(128, np.uint32)
    simulate(
        kernel(EXCHANGE.format(barrier=barrier), ".param .u64 out"), dynamic_shared=512, arguments=[out], **options
    )
    np.testing.assert_array_equal(out, (np.arange(128) + 32) % 128)


# Two warps produce, two consume; a barrier for each direction.
HANDOVER = """
mov.u32 %r0, %tid.x; mov.b32 %r1, dynamic; and.b32 %r2, %r0, 63; shl.b32 %r2, %r2, 2; add.u32 %r2, %r2, %r1;
ld.param.b64 %l0, [out]; mov.b32 %r5, 0; mov.b32 %r7, 0;
setp.ge.u32 %p0, %r0, 64; @%p0 bra consumer;
produce:
mad.lo.u32 %r6, %r5, 100, %r0;
st.shared.b32 [%r2], %r6;
{arrive} 1, 128;
bar.sync 2, 128;
add.u32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, 4; @%p1 bra produce;
bra end;
consumer:
bar.sync 1, 128;
ld.shared.b32 %r6, [%r2]; add.u32 %r7, %r7, %r6;
{arrive} 2, 128;
add.u32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, 4; @%p1 bra consumer;
and.b32 %r6, %r0, 63; mul.wide.u32 %l1, %r6, 4; add.u64 %l0, %l0, %l1; st.global.b32 [%l0], %r7;
end:
"""


@schedules
@pytest.mark.parametrize(
    "arrive", ["bar.arrive", "barrier.arrive", "bar.cta.arrive", "barrier.cta.arrive.aligned", "barrier.arrive.aligned"]
)
def test_arriving_without_waiting(simulate: Callable[..., Any], arrive: str, options: dict[str, Any]) -> None:
    out = np.zeros(64, np.uint32)
    text = kernel(HANDOVER.format(arrive=arrive), ".param .u64 out")
    simulate(text, dynamic_shared=256, arguments=[out], **options)
    np.testing.assert_array_equal(out, 600 + 4 * np.arange(64))


@pytest.mark.parametrize(
    ("body", "title"),
    [
        ("mov.b32 %r1, 16; bar.sync %r1;", "barriers are numbered 0 to 15"),
        ("bar.sync 0, 100;", "the number of threads must be a positive multiple of 32"),
        ("bar.sync 0, 0;", "the number of threads must be a positive multiple of 32"),
        ("bar.arrive 0, 64; bar.sync 0, 128;", "threads of one barrier expect different numbers of threads"),
        ("barrier.cluster.wait.aligned;", "barrier.cluster.wait without barrier.cluster.arrive before it"),
        (
            "setp.eq.u32 %p0, %r0, 0; @%p0 bra one; bra end;\none: barrier.cluster.arrive; barrier.cluster.arrive;",
            "a thread arrives twice at barrier.cluster without waiting between",
        ),
    ],
)
def test_faults(simulate: Callable[..., Any], body: str, title: str) -> None:
    text = kernel(f"mov.u32 %r0, %warpid;\n{body}\nend:")
    (report,) = simulate(text, raise_on_report=False).reports
    assert (report.kind, report.title, report.fatal) == ("barrier", title, True)


def test_more_threads_than_expected(simulate: Callable[..., Any]) -> None:
    text = kernel("bar.sync 1, 96;")
    reports = simulate(text, raise_on_report=False).reports  # three warps pass, one is left over
    assert [report.kind for report in reports] == ["deadlock"]
    text = kernel("setp.eq.u32 %p0, %r0, 0;\nbar.arrive 1, 64;\nbar.arrive 1, 64;\nbar.sync 1, 128;")
    assert [report.kind for report in simulate(text, raise_on_report=False).reports] == ["barrier"]


# Across a cluster: each CTA writes its rank into the next one's shared memory.
RING = """
mov.u32 %r0, %tid.x; mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, %cluster_nctarank; mov.b32 %r3, dynamic;
add.u32 %r4, %r1, 1; rem.u32 %r4, %r4, %r2;
shl.b32 %r5, %r0, 2; add.u32 %r6, %r3, %r5; mapa.shared::cluster.u32 %r7, %r6, %r4;
{arrive} barrier.cluster.wait.aligned;
mad.lo.u32 %r8, %r1, 1000, %r0;
st.shared::cluster.b32 [%r7], %r8;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
ld.shared.b32 %r9, [%r6];
ld.param.b64 %l0, [out]; mov.u32 %r10, %ctaid.x; shl.b32 %r10, %r10, 6; add.u32 %r10, %r10, %r0;
mul.wide.u32 %l1, %r10, 4; add.u64 %l0, %l0, %l1; st.global.b32 [%l0], %r9;
"""


@schedules
@pytest.mark.parametrize("cluster", [2, 4, 8])
def test_ring_of_ctas(simulate: Callable[..., Any], cluster: int, options: dict[str, Any]) -> None:
    out = np.zeros((16 // cluster, cluster, 64), np.uint32)
    text = kernel(RING.format(arrive="barrier.cluster.arrive.relaxed.aligned;"), ".param .u64 out", 64)
    simulate(text, grid=16, cluster=cluster, dynamic_shared=256, arguments=[out], **options)
    expected = (np.arange(cluster)[:, None] - 1) % cluster * 1000 + np.arange(64)
    np.testing.assert_array_equal(out, np.broadcast_to(expected, out.shape))


def test_relaxed_arrival_passes_nothing_on(simulate: Callable[..., Any]) -> None:
    relaxed = "barrier.cluster.arrive.relaxed; barrier.cluster.wait;"
    text = kernel(EXCHANGE.format(barrier=relaxed), ".param .u64 out")
    reports = simulate(text, dynamic_shared=512, arguments=[np.zeros(128, np.uint32)], raise_on_report=False).reports
    assert {report.kind for report in reports} == {"race"}


@pytest.mark.parametrize(
    "text",
    [
        *(f"fence{kind}.{scope};" for kind in ("", ".sc", ".acq_rel") for scope in ("cta", "cluster", "gpu", "sys")),
        *(f"membar.{scope};" for scope in ("cta", "gl", "sys")),
        *(f"fence.proxy.async{space};" for space in ("", ".global", ".shared::cta", ".shared::cluster")),
        "fence.mbarrier_init.release.cluster;",
    ],
)
def test_fences_change_no_value(run: Callable[..., Any], text: str) -> None:
    lane = np.arange(32, dtype=np.uint32)
    np.testing.assert_array_equal(run(f"mov.b32 %d, %a; {text}", a=lane)["d"], lane)


@schedules
@pytest.mark.parametrize("before", ["", "bar.sync 1, 64;"], ids=["exits-first", "exits-while-others-wait"])
def test_threads_that_have_exited_are_not_waited_for(
    simulate: Callable[..., Any], before: str, options: dict[str, Any]
) -> None:
    # Only where no count is given; with `before` warp 0 exits when the others may stand at barrier 0 already.
    text = f"mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 64; @!%p0 bra rest; {before} @%p0 exit; rest: bar.sync 0;"
    simulate(kernel(text), **options)
    counted = simulate(kernel(text.replace("bar.sync 0", "bar.sync 0, 128")), raise_on_report=False, **options)
    assert [report.kind for report in counted.reports] == ["deadlock"]
