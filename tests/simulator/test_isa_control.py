"""bra, ret, exit, guards: divergence, convergence, loops (PTX ISA, "Control Flow Instructions")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_text import SCHEDULES, kernel, schedule_name

LANE = np.arange(32, dtype=np.uint32)
schedules = pytest.mark.parametrize("options", SCHEDULES, ids=schedule_name)


@schedules
def test_both_sides_of_a_branch(run: Callable[..., Any], options: dict[str, Any]) -> None:
    text = """
@%p bra other;
mov.b32 %d, 1;
bra join;
other:
mov.b32 %d, 2;
join:
activemask.b32 %m;"""
    found = run(text, p=LANE % 3 == 0, options=options)
    np.testing.assert_array_equal(found["d"], np.where(LANE % 3 == 0, 2, 1))
    np.testing.assert_array_equal(found["m"], np.full(32, 0xFFFFFFFF))


def test_nested_branches_meet_again(run: Callable[..., Any]) -> None:
    text = """
.reg .pred %p, %q; .reg .b32 %bit;
and.b32 %bit, %lane, 1; setp.ne.u32 %p, %bit, 0;
and.b32 %bit, %lane, 2; setp.ne.u32 %q, %bit, 0;
@!%p bra.uni even;
@%q bra three;
activemask.b32 %inner;
bra odd;
three:
activemask.b32 %inner;
odd:
activemask.b32 %outer;
bra join;
even:
activemask.b32 %outer;
activemask.b32 %inner;
join:
activemask.b32 %all;"""
    found = run(text, lane=LANE)
    np.testing.assert_array_equal(found["inner"], np.choose(LANE % 4, [0x55555555, 0x22222222, 0x55555555, 0x88888888]))
    np.testing.assert_array_equal(found["outer"], np.choose(LANE % 2, [0x55555555, 0xAAAAAAAA]))
    np.testing.assert_array_equal(found["all"], np.full(32, 0xFFFFFFFF))


@schedules
def test_lanes_leave_a_loop_one_by_one(run: Callable[..., Any], options: dict[str, Any]) -> None:
    text = """
.reg .pred %p;
mov.b32 %d, 0;
again:
add.u32 %d, %d, 1;
setp.lt.u32 %p, %d, %n;
@%p bra again;
activemask.b32 %m;"""
    found = run(text, n=LANE[::-1].copy(), options=options)
    np.testing.assert_array_equal(found["d"], np.maximum(LANE[::-1], 1))
    np.testing.assert_array_equal(found["m"], np.full(32, 0xFFFFFFFF))


def test_guards(run: Callable[..., Any]) -> None:
    found = run("mov.b32 %d, 0; @%p mov.b32 %d, 1; @!%p add.u32 %d, %d, 2;", p=LANE < 7)
    np.testing.assert_array_equal(found["d"], np.where(LANE < 7, 1, 2))


def test_a_statement_that_no_lane_executes_costs_nothing(run: Callable[..., Any]) -> None:
    result = run("@%p mov.b32 %d, 1; @!%p mov.b32 %d, 2;", p=False).result
    counts = dict(zip(result.kernel.text, result.executed.tolist(), strict=True))
    assert counts["@%p mov.b32 %d, 1"] == 0 and counts["@!%p mov.b32 %d, 2"] == 1


LEAVE = """
mov.u32 %r0, %tid.x; ld.param.b64 %l0, [out]; mul.wide.u32 %l1, %r0, 4; add.u64 %l0, %l0, %l1;
and.b32 %r1, %r0, 3; setp.eq.u32 %p0, %r1, 0;
st.global.b32 [%l0], 1;
@%p0 {leave};
bar.warp.sync -1;
bar.sync 0;
activemask.b32 %r2;
st.global.b32 [%l0], %r2;
"""


@schedules
@pytest.mark.parametrize("leave", ["exit", "ret", "ret.uni"])
def test_nobody_waits_for_lanes_that_left(simulate: Callable[..., Any], leave: str, options: dict[str, Any]) -> None:
    out = np.zeros(64, np.uint32)
    simulate(kernel(LEAVE.format(leave=leave), ".param .u64 out", 64), arguments=[out], **options)
    np.testing.assert_array_equal(out, np.where(np.arange(64) % 4 == 0, 1, 0xEEEEEEEE))


def test_a_block_of_odd_size(simulate: Callable[..., Any]) -> None:
    out = np.zeros(40, np.uint32)
    simulate(kernel(LEAVE.format(leave="exit"), ".param .u64 out", 40), arguments=[out])
    expected = np.where(np.arange(40) < 32, 0xEEEEEEEE, 0xEE)
    np.testing.assert_array_equal(out, np.where(np.arange(40) % 4 == 0, 1, expected))


def test_code_that_ends_without_ret(simulate: Callable[..., Any]) -> None:
    text = kernel("mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 7;\n@%p0 bra end;\nend:").replace("\nret;", "")
    assert not simulate(text).reports


def test_a_lane_may_spin_until_another_of_its_warp_writes(simulate: Callable[..., Any]) -> None:
    """Independent thread scheduling: the lanes that wait do not keep the one that they wait for from running."""
    body = """
ld.param.b64 %l0, [flag]; mov.u32 %r0, %tid.x; setp.eq.u32 %p0, %r0, 31;
@%p0 bra writer;
wait:
ld.acquire.gpu.global.u32 %r1, [%l0];
setp.eq.u32 %p1, %r1, 0;
@%p1 bra wait;
bra end;
writer:
st.release.gpu.global.u32 [%l0], 1;
end:"""
    for options in SCHEDULES:
        flag = np.zeros(1, np.uint32)
        simulate(kernel(body, ".param .u64 flag", 32), arguments=[flag], **options)
        assert flag[0] == 1


def test_lanes_meet_wherever_a_time_slice_ends(simulate: Callable[..., Any]) -> None:
    """The others wait where a lane comes back to, and a slice may end with the very instruction that takes it there."""
    body = """
mov.b32 %r0, 0;
again:
elect.sync %r1|%p0, -1;
@%p0 bra far;
back:
add.u32 %r0, %r0, 1;
setp.lt.u32 %p1, %r0, 60;
@%p1 bra again;
bra.uni end;
far:
add.u32 %r2, %r2, 1;
add.u32 %r2, %r2, 1;
bra back;
end:"""
    for seed in range(40):
        assert not simulate(kernel(body, threads=128), schedule="random", seed=seed).reports


SPECIAL = ["tid", "ntid", "ctaid", "nctaid", "clusterid", "nclusterid", "cluster_ctaid", "cluster_nctaid"]
NAMES = [f"%{name}.{axis}" for name in SPECIAL for axis in "xyz"]
NAMES += ["%laneid", "%warpid", "%nwarpid", "%cluster_ctarank", "%cluster_nctarank"]
NAMES += ["%lanemask_eq", "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge", "%nsmid"]


def test_special_registers(simulate: Callable[..., Any]) -> None:
    stores = "\n".join(f"mov.u32 %r1, {name}; st.global.b32 [%l0+{4 * i}], %r1;" for i, name in enumerate(NAMES))
    linear = ["mov.u32 %r0, %ctaid.z;"]
    for name in ("ctaid.y", "ctaid.x", "tid.z", "tid.y", "tid.x"):
        linear.append(f"mov.u32 %r1, %n{name}; mov.u32 %r2, %{name}; mad.lo.u32 %r0, %r0, %r1, %r2;")
    body = (
        "\n".join(linear)
        + f"\nld.param.b64 %l0, [out]; mul.wide.u32 %l1, %r0, {4 * len(NAMES)}; add.u64 %l0, %l0, %l1;\n{stores}"
    )
    grid, block, cluster = (4, 2, 3), (6, 5, 2), (2, 1, 3)
    out = np.zeros((*grid[::-1], *block[::-1], len(NAMES)), np.uint32)
    text = kernel(body, ".param .u64 out").replace(".reqntid 128, 1, 1\n", "")
    simulate(text, grid=grid, block=block, cluster=cluster, arguments=[out])
    z, y, x, tz, ty, tx = np.indices(out.shape[:-1])
    thread, in_cluster = tx + 6 * (ty + 5 * tz), [x % 2, y * 0, z % 3]
    lane = (thread % 32).astype(np.uint64)
    one = np.uint64(1)
    expected = [tx, ty, tz, *block, x, y, z, *grid, x // 2, y, z // 3, 2, 2, 1, *in_cluster, *cluster]
    expected += [lane, thread // 32, 2, in_cluster[0] + 2 * in_cluster[2], 6]
    lower = (one << lane) - one
    expected += [one << lane, lower, lower * 2 + 1, 0xFFFFFFFF ^ (lower * 2 + 1), 0xFFFFFFFF ^ lower, 148]
    for i, (name, value) in enumerate(zip(NAMES, expected, strict=True)):
        np.testing.assert_array_equal(out[..., i], np.broadcast_to(value, out.shape[:-1]), err_msg=name)
