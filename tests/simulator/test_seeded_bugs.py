"""Synchronisation bugs that were found in published kernels, in a few lines each, and their clean twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from jax_fa4_simulator import run

SCHEDULES: list[dict[str, Any]] = [
    {"schedule": "eager"}, {"schedule": "lazy"}, *({"schedule": "random", "seed": seed} for seed in range(4)),
]  # fmt: skip
MEET = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"

# Both CTAs of a pair allocate tensor memory together, and free it together.
PAIR = """
.version 8.8
.target sm_100a
.address_size 64
.shared .align 4 .b32 slot;
.visible .entry pair(.param .u64 out)
.reqntid 64, 1, 1
{
  .reg .pred %other; .reg .b32 %thread, %cta, %slot, %at; .reg .b64 %out, %offset;
  mov.u32 %thread, %tid.x;
  setp.ge.u32 %other, %thread, 32;
  mov.u32 %slot, slot;
  PEER_STARTED
  @%other bra allocated;
  tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [%slot], 64;
  tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;
allocated:
  bar.sync 0;
  ld.shared.b32 %at, [%slot];
  PEER_ALLOCATED
  @%other bra freed;
  tcgen05.dealloc.cta_group::2.sync.aligned.b32 %at, 64;
  ld.param.b64 %out, [out];
  mov.u32 %cta, %ctaid.x;
  mul.wide.u32 %offset, %cta, 4;
  add.s64 %out, %out, %offset;
  st.global.b32 [%out], %at;
freed:
  ret;
}
"""

# All lanes of warp 0 store; warp 1 waits on an mbarrier and reads what the lane opposite has stored.
HANDOVER = """
.version 8.8
.target TARGET
.address_size 64
.shared .align 8 .b64 ready;
.shared .align 128 .b8 room[128];
.visible .entry handover(.param .u64 out)
.reqntid 64, 1, 1
{
  .reg .pred %other, %passed, %elected; .reg .b32 %thread, %lane, %ready, %room, %at, %value;
  .reg .b64 %out, %offset, %state;
  mov.u32 %thread, %tid.x;
  and.b32 %lane, %thread, 31;
  mov.u32 %ready, ready;
  mov.u32 %room, room;
  setp.ne.u32 %other, %thread, 0;
  @%other bra initialised;
  mbarrier.init.shared.b64 [%ready], COUNT;
initialised:
  bar.sync 0;
  setp.ge.u32 %other, %thread, 32;
  @%other bra consume;
  shl.b32 %at, %lane, 2;
  add.s32 %at, %at, %room;
  st.shared.b32 [%at], %lane;
  ARRIVE
  ret;
consume:
  mbarrier.try_wait.parity.shared.b64 %passed, [%ready], 0;
  @!%passed bra consume;
  xor.b32 %at, %lane, 31;
  shl.b32 %at, %at, 2;
  add.s32 %at, %at, %room;
  ld.shared.b32 %value, [%at];
  ld.param.b64 %out, [out];
  mul.wide.u32 %offset, %lane, 4;
  add.s64 %out, %out, %offset;
  st.global.b32 [%out], %value;
  ret;
}
"""

# Each CTA of a pair reads what the other has in its shared memory.
LOOK = """
.version 8.8
.target TARGET
.address_size 64
.shared .align 4 .b32 own;
.visible .entry look(.param .u64 out)
.reqntid 32, 1, 1
{
  .reg .b32 %cta, %rank, %own, %peer, %value; .reg .b64 %out, %offset; .reg .pred %elected;
  mov.u32 %cta, %ctaid.x;
  mov.u32 %rank, %cluster_ctarank;
  mov.u32 %own, own;
  elect.sync _|%elected, -1;
  @!%elected bra written;
  st.shared.b32 [%own], %cta;
written:
  MEET_BEFORE
  xor.b32 %rank, %rank, 1;
  mapa.shared::cluster.u32 %peer, %own, %rank;
  ld.shared::cluster.b32 %value, [%peer];
  MEET_AFTER
  @!%elected bra done;
  ld.param.b64 %out, [out];
  mul.wide.u32 %offset, %cta, 4;
  add.s64 %out, %out, %offset;
  st.global.b32 [%out], %value;
done:
  ret;
}
"""
ONE_LANE = "elect.sync _|%elected, -1; @%elected mbarrier.arrive.shared.b64 %state, [%ready];"
ALL_LANES = "mbarrier.arrive.shared.b64 %state, [%ready];"

ARCHITECTURES = pytest.mark.parametrize("target", ["sm_90a", "sm_100a"])


def pair(started: str, allocated: str, **options: Any) -> list[Any]:
    out = np.full(4, -1, np.int32)
    text = PAIR.replace("PEER_STARTED", started).replace("PEER_ALLOCATED", allocated)
    result = run(text, grid=4, cluster=2, arguments=[out], raise_on_report=False, **options)
    assert result.reports or (out == 0).all()
    return result.reports


def handover(target: str, count: int, arrive: str, **options: Any) -> list[Any]:
    out = np.zeros(32, np.int32)
    text = HANDOVER.replace("TARGET", target).replace("COUNT", str(count)).replace("ARRIVE", arrive)
    result = run(text, arguments=[out], raise_on_report=False, **options)
    assert result.reports or (out == np.arange(32)[::-1]).all()
    return result.reports


def look(target: str, before: str, after: str, **options: Any) -> list[Any]:
    out = np.full(4, -1, np.int32)
    text = LOOK.replace("TARGET", target).replace("MEET_BEFORE", before).replace("MEET_AFTER", after)
    result = run(text, grid=4, cluster=2, arguments=[out], raise_on_report=False, **options)
    assert result.reports or (out == [1, 0, 3, 2]).all()
    return result.reports


def found(kernel: Callable[..., list[Any]], *arguments: Any) -> list[list[tuple[str, str]]]:
    """Kind and title of the reports, by schedule."""
    return [[(report.kind, report.title) for report in kernel(*arguments, **options)] for options in SCHEDULES]


def test_pair_that_meets_before_and_after_allocating_is_clean() -> None:
    assert found(pair, MEET, MEET) == [[]] * len(SCHEDULES)


def test_allocation_for_a_pair_whose_other_cta_may_not_have_started() -> None:
    """NVIDIA/cutlass pull request 3316."""
    for reports in found(pair, "", MEET):
        assert [kind for kind, _ in reports] == ["tensor_memory"]
        assert "before the peer CTA is known to run" in reports[0][1]


def test_free_of_a_pair_before_the_other_allocation_is_complete() -> None:
    """NVIDIA/cutlass issue 3435."""
    for reports in found(pair, MEET, ""):
        assert [kind for kind, _ in reports] == ["tensor_memory"]
        assert "tcgen05.dealloc before the peer" in reports[0][1]


@ARCHITECTURES
def test_elected_lane_hands_over_what_other_lanes_stored(target: str) -> None:
    """NVIDIA/cudnn-frontend pull request 426."""
    for reports in found(handover, target, 1, ONE_LANE):
        assert [kind for kind, _ in reports] == ["race"]


@ARCHITECTURES
@pytest.mark.parametrize(
    ("count", "arrive"), [(1, f"bar.warp.sync -1; {ONE_LANE}"), (32, ALL_LANES)], ids=["lanes_meet", "all_arrive"]
)
def test_hand_over_of_all_lanes_is_clean(target: str, count: int, arrive: str) -> None:
    assert found(handover, target, count, arrive) == [[]] * len(SCHEDULES)


@ARCHITECTURES
def test_cta_exits_while_the_other_may_still_look_into_it(target: str) -> None:
    """The trailing cluster barrier is missing: sgl-project/sglang issue 32907."""
    assert found(look, target, MEET, MEET) == [[]] * len(SCHEDULES)
    for reports in found(look, target, MEET, ""):
        assert reports and {kind for kind, _ in reports} <= {"race", "out_of_bounds"}
