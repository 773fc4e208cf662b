"""Vector clocks and what the lanes of a warp know, against a model that keeps every lane's knowledge by itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_fa4_simulator import _simulator

ALL = 0xFFFFFFFF
PIPE = 40


def view(agent=3, lanes=ALL):
    return _simulator.WarpView(agent, lanes)


def test_clock_covers_what_it_learned():
    clock = _simulator.Clock()
    assert clock.covers(7, ALL, 0)
    assert not clock.covers(7, ALL, 1)
    clock.learn(7, 5)
    assert clock.covers(7, ALL, 5)
    assert not clock.covers(7, 1, 6)
    assert not clock.covers(8, ALL, 1)


def test_clock_unites_the_lanes_of_several_entries():
    clock = _simulator.Clock()
    clock.learn(7, 0x0000FFFF, 5)
    assert clock.covers(7, 0x1, 5)
    assert not clock.covers(7, ALL, 5)
    clock.learn(7, 0xFFFF0000, 8)
    assert clock.covers(7, ALL, 5)
    assert not clock.covers(7, ALL, 6)
    assert clock.covers(7, 0x10000, 8)


def test_clock_join_takes_the_later_time_of_each():
    one, two = _simulator.Clock(), _simulator.Clock()
    one.learn(2, 9)
    one.learn(3, 1, 4)
    two.learn(2, 3)
    two.learn(3, 2)
    two.learn(30, 6)
    two.learn(3, 2, 7)
    one.join(two)
    assert one.covers(2, ALL, 9) and one.covers(30, ALL, 6)
    assert one.covers(3, 1, 4) and one.covers(3, 2, 7) and one.covers(3, ALL, 2)
    assert not one.covers(3, 1, 5) and not one.covers(3, ALL, 4)
    assert one.includes(two) and not two.includes(one)


LANES = st.sampled_from([0b0001, 0b0010, 0b0011, 0b1100, 0b0110, 0b1111])
KINDS = st.sampled_from(["acquire", "learn", "meet", "fence", "release", "ask"])
STEPS = st.lists(st.tuples(KINDS, LANES, st.integers(0, 2)), max_size=25)


class Model:
    """Four lanes; each knows for every (agent, lane) the last time, generic and fenced."""

    def __init__(self, agent):
        self.agent, self.now, self.lanes = agent, 1, range(4)
        self.generic = [{} for _ in self.lanes]
        self.fenced = [{} for _ in self.lanes]

    def of(self, mask):
        return [lane for lane in self.lanes if mask >> lane & 1]

    @staticmethod
    def join(into, other):
        for key, time in other.items():
            into[key] = max(into.get(key, 0), time)

    def note_own(self, lane):
        self.generic[lane][self.agent, lane] = self.now

    def add(self, mask, generic, fenced):
        for lane in self.of(mask):
            self.join(self.generic[lane], generic)
            self.join(self.fenced[lane], fenced)

    def union(self, mask):
        generic, fenced = {}, {}
        for lane in self.of(mask):
            self.note_own(lane)
            self.join(generic, self.generic[lane])
            self.join(fenced, self.fenced[lane])
        return generic, fenced

    def meet(self, mask):
        generic, fenced = self.union(mask)
        self.add(mask, generic, fenced)
        self.now += 1

    def fence(self, mask):
        for lane in self.of(mask):
            self.note_own(lane)
            self.join(self.fenced[lane], self.generic[lane])
        self.now += 1

    def release(self, mask):
        union = self.union(mask)
        self.now += 1
        return union

    def known_to_each(self, mask, which):
        """What every one of the lanes knows; of the warp itself, what each knows of the asking lanes."""
        for lane in self.of(mask):
            self.note_own(lane)
        knowledge = [getattr(self, which)[lane] for lane in self.of(mask)]
        return {key: min(known.get(key, 0) for known in knowledge) for known in knowledge for key in known}


def assert_same(clock, expected, times, agents):
    for agent in agents:
        for lane in range(4):
            for time in times:
                known = time <= expected.get((agent, lane), 0)
                assert clock.covers(agent, 1 << lane, time) == known, (agent, lane, time)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_warp_view_agrees_with_a_model_of_single_lanes(steps):
    mine, model = view(3, 0b1111), Model(3)
    sources = []
    for index in range(3):
        known = _simulator.Knowledge()
        known.learn(10 + index, 0b0101 if index == 1 else ALL, 5)
        if index == 2:
            known.fence()
        entry = {(10 + index, lane): 5 for lane in range(4) if index != 1 or lane in (0, 2)}
        sources.append((known, entry, entry if index == 2 else {}))
    time = 0
    for what, lanes, index in steps:
        if what == "acquire":
            known, generic, fenced = sources[index]
            mine.acquire(lanes, known)
            model.add(lanes, generic, fenced)
        elif what == "learn":
            time += 1
            mine.learn(PIPE, time, lanes)
            entry = {(PIPE, lane): time for lane in range(4)}
            model.add(lanes, entry, entry)
        elif what == "meet":
            mine.meet(lanes)
            model.meet(lanes)
        elif what == "fence":
            mine.fence_async(lanes)
            model.fence(lanes)
        elif what == "release":
            released, (generic, fenced) = mine.release(lanes), model.release(lanes)
            others = [10, 11, 12, PIPE, 3]
            assert_same(released.generic, generic, range(1, model.now + 2), others)
            assert_same(released.fenced, fenced, range(1, model.now + 2), others)
        else:
            known = mine.known_to(lanes)
            others = [10, 11, 12, PIPE]
            assert_same(known.generic, model.known_to_each(lanes, "generic"), range(1, time + 6), others)
            assert_same(known.fenced, model.known_to_each(lanes, "fenced"), range(1, time + 6), others)
            assert known.generic.covers(3, lanes, model.now)
            for lane in model.of(lanes):
                for when in range(1, model.now + 1):
                    fenced = when <= model.fenced[lane].get((3, lane), 0)
                    assert mine.known_to(1 << lane).fenced.covers(3, 1 << lane, when) == fenced
        assert mine.now == model.now


def test_an_elected_lane_passes_on_its_own_accesses_only():
    warp = view()
    known = warp.release(1)
    assert known.generic.covers(3, 1, 1)
    assert not known.generic.covers(3, 2, 1)
    assert warp.now == 2


@pytest.mark.parametrize("meets", [True, False])
def test_lanes_that_met_are_passed_on_by_one(meets):
    warp = view()
    written = warp.now
    if meets:
        warp.meet(ALL)
    assert warp.release(1).generic.covers(3, ALL, written) == meets


@pytest.mark.parametrize("meets", [True, False])
def test_what_one_lane_acquired_is_known_to_others_once_they_meet(meets):
    warp, other = view(3), view(4)
    warp.acquire(1, other.release(ALL))
    if meets:
        warp.meet(ALL)
    assert warp.known_to(1).generic.covers(4, ALL, 1)
    assert warp.known_to(ALL).generic.covers(4, ALL, 1) == meets
    assert warp.known_to(2).generic.covers(4, ALL, 1) == meets


@pytest.mark.parametrize("fences", [True, False])
def test_a_warps_own_writes_need_its_fence(fences):
    warp = view()
    written = warp.now
    if fences:
        warp.fence_async(ALL)
    warp.meet(ALL)
    known = warp.known_to(1)
    assert known.generic.covers(3, ALL, written)
    assert known.fenced.covers(3, ALL, written) == fences
    assert not known.fenced.covers(3, ALL, warp.now)


def test_a_fence_before_the_lanes_meet_covers_each_lanes_own():
    warp = view()
    written = warp.now
    warp.fence_async(ALL)
    assert warp.known_to(1).fenced.covers(3, 1, written)
    assert not warp.known_to(1).fenced.covers(3, 2, written)


def test_a_fence_by_the_consumer_counts():
    writer, reader = view(3), view(4)
    reader.acquire(ALL, writer.release(ALL))
    assert not reader.known_to(1).fenced.covers(3, ALL, 1)
    reader.fence_async(ALL)
    assert reader.known_to(1).fenced.covers(3, ALL, 1)


def test_all_existing_lanes_are_the_whole_warp():
    warp = view(3, 0xFF)
    assert warp.release(0xFF).generic.covers(3, ALL, 1)


def test_completion_of_a_pipe_needs_no_fence():
    warp = view()
    warp.learn(PIPE, 2, ALL)
    assert warp.known_to(1).fenced.covers(PIPE, ALL, 2)
    assert not warp.known_to(1).generic.covers(PIPE, ALL, 3)


def test_knowledge_of_other_clusters_travels_with_everything_else():
    far, near, third = view(0), view(0), view(1)
    near.acquire(ALL, _simulator.Knowledge())
    carried = _simulator.Knowledge()
    carried.join_foreign(5, far.release(ALL))
    near.acquire(ALL, carried)
    assert near.known_to(1).of_cluster(5).generic.covers(0, ALL, 1)
    assert not near.known_to(1).generic.covers(0, ALL, 1)
    third.acquire(ALL, near.release(ALL))
    assert third.known_to(ALL).of_cluster(5).generic.covers(0, ALL, 1)
    assert not third.known_to(ALL).of_cluster(5).fenced.covers(0, ALL, 1)
    third.fence_async(ALL)
    assert third.known_to(ALL).of_cluster(5).fenced.covers(0, ALL, 1)
    assert not near.known_to(ALL).of_cluster(5).fenced.covers(0, ALL, 1)
    assert third.known_to(ALL).of_cluster(6) is None
