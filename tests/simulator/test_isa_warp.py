"""Lanes of one warp talking to each other (PTX ISA, "Parallel Synchronization": elect, shfl, vote, redux, bar.warp)."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pytest
from kernel_text import SCHEDULES, schedule_name

LANE = np.arange(32, dtype=np.uint32)
MASKS = [0xFFFFFFFF, 0x0000FFFF, 0x80000001, 0x00010000, 0x5A5A0F00]


def _lanes(mask: int) -> np.ndarray:
    return (mask >> np.arange(32)) & 1 != 0


@pytest.mark.parametrize("mask", MASKS)
def test_activemask(run: Callable[..., Any], mask: int) -> None:
    np.testing.assert_array_equal(run("activemask.b32 %d;", active=mask)["d"], np.where(_lanes(mask), mask, 0))


@pytest.mark.parametrize("mask", MASKS)
def test_elect_chooses_one(run: Callable[..., Any], mask: int) -> None:
    found = run("elect.sync %d|%p, %m;", m=np.uint32(mask), active=mask, out={"d": np.uint32, "p": np.bool_})
    leader = (mask & -mask).bit_length() - 1
    np.testing.assert_array_equal(found["d"], np.where(_lanes(mask), leader, 0))
    np.testing.assert_array_equal(found["p"], leader == LANE)


def test_elect_without_the_leader(run: Callable[..., Any]) -> None:
    np.testing.assert_array_equal(run("elect.sync _|%p, -1;", out={"p": np.bool_})["p"], LANE == 0)


# shfl: the manual's pseudocode, lane by lane.


def _source(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    b, clamp, segment = b & 31, c & 31, c >> 8 & 31
    highest = (lane & segment) | (clamp & ~segment & 31)
    if mode == "up":
        source = lane - b
        valid = source >= highest
    elif mode == "down":
        source = lane + b
        valid = source <= highest
    elif mode == "bfly":
        source = lane ^ b
        valid = source <= highest
    else:
        source = (lane & segment) | (b & ~segment & 31)
        valid = source <= highest
    return (source if valid else lane), valid


CLAMPS = [0, 0x1F, 0x1C03, 0x1F1F, 0x181F, 0x1800, 7, 0x1007, 0xFFFFE0E0]


@pytest.mark.parametrize("c", CLAMPS)
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shfl(run: Callable[..., Any], mode: str, c: int) -> None:
    a = np.random.default_rng(1).integers(0, 1 << 32, 32, dtype=np.uint32)
    for b in [np.full(32, n, np.uint32) for n in (0, 1, 2, 5, 16, 31, 35)] + [LANE[::-1].copy(), LANE * 7 + 3]:
        out = {"d": np.uint32, "p": np.bool_}
        found = run(f"shfl.sync.{mode}.b32 %d|%p, %a, %b, %c, -1;", a=a, b=b, c=np.uint32(c), out=out)
        expected = [_source(mode, lane, int(b[lane]), c) for lane in range(32)]
        np.testing.assert_array_equal(found["d"], [a[source] for source, _ in expected])
        np.testing.assert_array_equal(found["p"], [valid for _, valid in expected])


def test_shfl_may_overwrite_its_source(run: Callable[..., Any]) -> None:
    found = run("shfl.sync.bfly.b32 %a, %a, 1, 31, -1;", a=LANE, out={"a": np.uint32})
    np.testing.assert_array_equal(found["a"], LANE ^ 1)


def test_shfl_of_half_a_warp(run: Callable[..., Any]) -> None:
    found = run("shfl.sync.down.b32 %d, %a, 8, 0x101f, 0xffff;", a=LANE + 100, active=0xFFFF)
    np.testing.assert_array_equal(found["d"], np.where(LANE < 8, LANE + 108, np.where(LANE < 16, LANE + 100, 0)))


PREDICATES = [np.zeros(32, bool), np.ones(32, bool), LANE == 16, LANE % 2 == 0, LANE >= 16]


@pytest.mark.parametrize("negated", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_vote(run: Callable[..., Any], mask: int, negated: bool) -> None:
    voters = _lanes(mask)
    text = "\n".join(f"vote.sync.{mode}.pred %{mode}, {'!' * negated}%p, %m;" for mode in ("all", "any", "uni"))
    text += f"\nvote.sync.ballot.b32 %ballot, {'!' * negated}%p, %m;"
    out = {"all": np.bool_, "any": np.bool_, "uni": np.bool_, "ballot": np.uint32}
    for p in PREDICATES:
        found = run(text, p=p, m=np.uint32(mask), active=mask, out=out)
        votes = (p ^ negated)[voters]
        for mode, result in [("all", votes.all()), ("any", votes.any()), ("uni", votes.all() or not votes.any())]:
            np.testing.assert_array_equal(found[mode], voters & result)
        ballot = int(sum(1 << int(lane) for lane in LANE if voters[lane] and (p ^ negated)[lane]))
        np.testing.assert_array_equal(found["ballot"], np.where(voters, ballot, 0))


REDUCTIONS: dict[str, Any] = {
    "add.u32": (np.uint32, np.add),
    "add.s32": (np.int32, np.add),
    "min.u32": (np.uint32, np.minimum),
    "min.s32": (np.int32, np.minimum),
    "max.u32": (np.uint32, np.maximum),
    "max.s32": (np.int32, np.maximum),
    "and.b32": (np.uint32, np.bitwise_and),
    "or.b32": (np.uint32, np.bitwise_or),
    "xor.b32": (np.uint32, np.bitwise_xor),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("operation", REDUCTIONS)
def test_redux(run: Callable[..., Any], operation: str, mask: int) -> None:
    dtype, combine = REDUCTIONS[operation]
    a = np.random.default_rng(mask % 97).integers(0, 1 << 32, 32, dtype=np.uint32).view(dtype)
    found = run(f"redux.sync.{operation} %d, %a, %m;", a=a, m=np.uint32(mask), active=mask, out={"d": dtype})
    with np.errstate(over="ignore"):
        expected = reduce(combine, a[_lanes(mask)])
    np.testing.assert_array_equal(found["d"], np.where(_lanes(mask), expected, dtype(0)))


@pytest.mark.parametrize("options", SCHEDULES, ids=schedule_name)
def test_lanes_wait_for_their_warp(run: Callable[..., Any], options: dict[str, Any]) -> None:
    """A .sync instruction gathers its members, though they come from different places."""
    text = """
mov.b32 %x, %a;
@!%p bra end;
add.u32 %x, %x, 100;
end:
bar.warp.sync -1;
redux.sync.add.u32 %sum, %x, -1;"""
    found = run(text, a=LANE, p=LANE % 2 == 1, options=options)
    np.testing.assert_array_equal(found["sum"], np.full(32, LANE.sum() + 1600))


def test_data_passes_at_bar_warp(run: Callable[..., Any]) -> None:
    text = "st.shared.b32 [%at], %a; bar.warp.sync -1; ld.shared.b32 %d, [%other];"
    found = run(text, at=1024 + 4 * LANE, other=1024 + 4 * (LANE ^ 1), a=LANE, shared=np.zeros(32, np.uint32))
    np.testing.assert_array_equal(found["d"], LANE ^ 1)


SYNCHRONISING = [
    "elect.sync %d|%p, {m};",
    "shfl.sync.idx.b32 %d, %a, 0, 31, {m};",
    "vote.sync.any.pred %p, %p, {m};",
    "vote.sync.ballot.b32 %d, %p, {m};",
    "redux.sync.add.u32 %d, %a, {m};",
    "bar.warp.sync {m};",
]


@pytest.mark.parametrize("text", SYNCHRONISING)
def test_the_member_mask_names_the_lanes(run: Callable[..., Any], text: str) -> None:
    registers = {"a": LANE, "p": False, "q": np.uint32(0xFF)}
    with pytest.raises(RuntimeError, match=r"error\[undefined\]: the member mask lacks lanes that execute"):
        run(text.format(m="0xff"), **registers)
    with pytest.raises(RuntimeError, match=r"error\[undefined\]: the member mask differs between lanes"):
        run(text.format(m="%m"), m=LANE + 1, **registers)
    with pytest.raises(RuntimeError, match=r"error\[deadlock\]"):  # lanes 8 to 31 wait somewhere else
        other = f"@%upper bra other; {text.format(m='-1')} bra end; other: bar.sync 1, 128; end:"
        run(other, upper=LANE >= 8, **registers)
