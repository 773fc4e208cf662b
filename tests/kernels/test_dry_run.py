"""The roles of the forward kernel in ordinary Python: no deadlock and no ring overrun, in any order of events."""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_rings import LEFT, UNBOUNDED, VALUES, Barrier, DryKernel, Event, Finding, Launch, Traces, barriers_of

from jax_fa4.kernels.variants import forward_plans, hopper_plans

Clock = tuple[int, ...]  # how many waits of each warp have ended by then


def count_uses(barriers: tuple[Barrier, ...], traces: Traces) -> Iterator[Finding]:
    """Each warp on the two sides of a ring waits and arrives as often as the others."""
    counts: dict[tuple[str, int, bool, bool], Counter[int]] = defaultdict(Counter)
    for warp, events in traces.items():
        for kind, at, _ in events:
            barrier = barriers[at]
            counts[barrier.ring.name, barrier.tile, barrier.is_full, kind == "wait"][warp] += kind != "copy"
    for first in (barrier for barrier in barriers if barrier.slot == 0):
        place = first.ring.name, first.tile
        if len(first.arrivers) != first.arrivals:
            yield first.finding(f"{first.arrivals} arrivals for {len(first.arrivers)} warps")
        uses = max([0, *counts[*place, True, False].values(), *counts[*place, True, True].values()])
        for is_wait in (False, True):
            warps = first.consumers if first.is_full == is_wait else first.producers
            wanted = max(uses - LEFT.get(first.ring.name, 0), 0) if warps is first.consumers else uses
            for warp in warps:
                count = counts[*place, first.is_full, is_wait][warp]
                if count != wanted:
                    what = f"{'waits' if is_wait else 'arrives'} at {'full' if first.is_full else 'empty'} ones"
                    yield first.finding(f"warp {warp} {what} {count} times, {uses} uses ask for {wanted}")


class Play:
    """Plays traces together; the rules hold for every order that they allow.

    A phase is known to a warp when it has waited for it, or for something that came after such a wait.
    """

    def __init__(self, barriers: tuple[Barrier, ...], traces: Traces) -> None:
        self.barriers, self.traces = barriers, traces
        self.start: Clock = (0,) * len(traces)
        self.clocks = dict.fromkeys(traces, self.start)
        self.done = dict.fromkeys(traces, 0)
        self.phases: list[list[Clock]] = [[] for _ in barriers]
        # Of each phase that is not over: arrivals, bytes due, what came before them.
        self.open: list[tuple[int, int, Clock]] = [(0, 0, self.start)] * len(barriers)
        self.waited: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        self.arrived: Counter[tuple[int, int]] = Counter()
        self.findings: list[Finding] = []
        self.run()
        self.look_for_overruns()
        self.look_for_a_deadlock()

    def run(self) -> None:
        """Lets each warp go on until all have ended or wait for what never comes."""
        ready = deque(self.traces)
        asleep: dict[int, list[int]] = defaultdict(list)
        while ready:
            warp = ready.popleft()
            for event in itertools.islice(self.traces[warp], self.done[warp], None):
                kind, at, phase = event
                if kind != "wait":
                    if self.arrive(warp, event):
                        ready += asleep.pop(at, ())
                elif phase < len(self.phases[at]):
                    self.wait(warp, at, phase)
                else:
                    asleep[at].append(warp)
                    break
                self.done[warp] += 1

    def wait(self, warp: int, at: int, phase: int) -> None:
        """Ends a wait: a phase two earlier would have had the same parity."""
        clock = self.clocks[warp]
        if phase > 0 and not self.is_known(at, phase - 1, clock):
            self.find(at, f"warp {warp} may take phase {phase - 2} for {phase}, for which it waits")
        if phase >= 0:
            clock = tuple(map(max, clock, self.phases[at][phase]))
        self.clocks[warp] = (*clock[:warp], clock[warp] + 1, *clock[warp + 1 :])
        self.waited[at, phase].append((warp, clock[warp] + 1))

    def arrive(self, warp: int, event: Event) -> bool:
        """Counts an arrival, or a copy's bytes; returns whether that completes the phase."""
        kind, at, size = event
        arrivals, due, before = self.open[at]
        if kind != "copy":
            phase = self.arrived[warp, at]
            if phase > 0 and not self.is_known(at, phase - 1, self.clocks[warp]):
                self.find(at, f"warp {warp} may arrive for phase {phase} in the one before, which has its arrivals")
            self.arrived[warp, at] += 1
            arrivals += 1
        due += {"expect": size, "copy": -size}.get(kind, 0)
        self.open[at] = arrivals, due, tuple(map(max, before, self.clocks[warp]))
        if arrivals < self.barriers[at].arrivals or due:
            return False
        self.phases[at].append(self.open[at][-1])
        self.open[at] = 0, 0, self.start
        return True

    def is_known(self, at: int, phase: int, clock: Clock) -> bool:
        """Whether someone's wait for the phase, or for the next, had ended by then."""
        return any(clock[warp] >= tick for n in (phase, phase + 1) for warp, tick in self.waited[at, n])

    def find(self, at: int, text: str) -> None:
        self.findings.append(self.barriers[at].finding(text))

    def look_for_overruns(self) -> None:
        """A phase must not be over before all waits for the one before have ended: they would wait for the next."""
        for (at, phase), waits in self.waited.items():
            for before in self.phases[at][phase + 1 : phase + 2]:
                for warp in (warp for warp, tick in waits if before[warp] < tick):
                    self.find(at, f"phase {phase + 1} may be over while warp {warp} waits for {phase}")

    def look_for_a_deadlock(self) -> None:
        """Follows from a warp that waits for ever to one that does not arrive, until they go round or one has ended."""
        stuck = {warp: events[self.done[warp]] for warp, events in self.traces.items() if self.done[warp] < len(events)}
        path: list[int] = []
        last = next(iter(stuck), None)
        while last in stuck and last not in path:
            path.append(last)
            _, at, phase = stuck[last]
            last = next((warp for warp in self.barriers[at].arrivers if self.arrived[warp, at] <= phase), None)
        for warp in path[path.index(last) if last in path else -1 :]:
            _, at, phase = stuck[warp]
            self.find(at, f"warp {warp} waits for ever for phase {phase}: arrivals, bytes due {self.open[at][:2]}")
        for at, (arrivals, due, _) in enumerate(self.open):
            if not stuck and (arrivals or due):
                self.find(at, f"a phase is left with {arrivals} arrivals, {due} bytes due")


@functools.cache
def play(barriers: tuple[Barrier, ...], traces: tuple[tuple[Event, ...], ...]) -> list[Finding]:
    """Plays all warps' traces; plans that differ in dtype alone have the same."""
    return Play(barriers, dict(enumerate(map(list, traces)))).findings


def findings(kernel: DryKernel, plan: Any, traces: Traces) -> Iterator[Finding]:
    """Finds all rules that are broken."""
    barriers, set_counts = barriers_of(plan), kernel.recorder.counts
    yield from (each.finding("count") for at, each in enumerate(barriers) if set_counts.get(at) != each.arrivals)
    yield from (barriers[at].finding(f"phase {phase}: parity") for at, phase in kernel.recorder.wrong_parities)
    yield from count_uses(barriers, traces)
    yield from play(barriers, tuple(tuple(traces[warp]) for warp in range(len(traces))))


# What two CTAs of a cluster have in common is not modelled: their variants are left out here.
PLANS = {plan.name: plan for plan in forward_plans() if plan.manifest()["cluster"] == [1, 1, 1]}
CASES = [
    Launch(1, 0),
    Launch(1, 1),
    Launch(257, 129, ctas=4),
    Launch(1100, 100),  # persistent, one block a tile
    Launch(300, 700, batch=2, heads=2, section=3, ctas=3),
    Launch(70, 300, heads=4, group=2, pack_shift=2, section=2, high=0),
    Launch(1100, 700, ctas=2, high=-200),
    Launch(600, 600, heads=2, section=2, low=-130, high=70),
    Launch(300, 300, low=400),
    Launch(300, 300, high=-5000, ctas=2),
    Launch(512, 400, batch=4, section=2, query_seq_lengths=(0, 3, 512, 257), key_value_seq_lengths=(9, 400, 0, 129)),
]


def random_launches(count: int) -> Iterator[Launch]:
    generator = random.Random(0)
    for _ in range(count):
        queries, keys, batch, heads, section, ctas = (generator.randint(1, top) for top in (600, 300, 2, 2, 3, 3))
        low, high = sorted(generator.choices((-UNBOUNDED, -300, -100, 0, 128, UNBOUNDED), k=2))
        yield Launch(queries, keys, ctas, heads, batch, section, low=low, high=high)


@pytest.fixture(scope="module")
def kernel() -> DryKernel:
    return DryKernel()


@pytest.fixture(scope="module")
def hopper() -> DryKernel:
    return DryKernel("sm90")


# Plans that differ in dtype alone have the same rings.
HOPPER = {plan.name: plan for plan in hopper_plans() if plan.dtype == "bfloat16"}


@pytest.mark.slow
@pytest.mark.parametrize("plan", HOPPER.values(), ids=HOPPER)
def test_nobody_waits_for_ever_or_is_overrun_on_hopper(hopper: DryKernel, plan: Any) -> None:
    for launch in [*CASES, *random_launches(8)]:
        for cta in range(launch.ctas):
            assert [*findings(hopper, plan, hopper.trace(plan, launch, cta))] == [], f"{launch}, CTA {cta}"
    assert hopper.trace(plan, CASES[4], 0) == hopper.trace(plan, CASES[4], 0, twins=False, vote=False)


@pytest.mark.parametrize("name", ["d64_banded", "d192v128_general_float32"])
def test_whatever_is_missing_on_hopper_is_reported_by_its_ring(hopper: DryKernel, name: str) -> None:
    plan = HOPPER[f"jax_fa4_forward_sm90_bfloat16_{name}"]
    assert_missing_is_reported(hopper, plan, lambda warp: warp % 4 == 0 or warp > plan.role("load").first_warp)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_nobody_waits_for_ever_or_is_overrun(kernel: DryKernel, plan: Any) -> None:
    for launch in [*CASES, *random_launches(8 if plan.dtype == "bfloat16" else 0)]:
        for cta in range(launch.ctas):
            assert [*findings(kernel, plan, kernel.trace(plan, launch, cta))] == [], f"{launch}, CTA {cta}"
    # Nothing depends on values, nor on which of a warpgroup's warps it is.
    assert kernel.trace(plan, CASES[4], 0) == kernel.trace(plan, CASES[4], 0, twins=False, vote=False)


def test_the_trace_has_every_block_and_tile(kernel: DryKernel) -> None:
    plan, uses = PLANS["jax_fa4_forward_sm100_bfloat16_d128_banded"], Counter[str]()
    for cta in range(2):
        for kind, at, _ in kernel.trace(plan, CASES[6], cta)[plan.role("mma").first_warp]:
            uses[barriers_of(plan)[at].ring.name] += kind == "arrive" and barriers_of(plan)[at].tile == 0
    # Rows 0-255 see the keys below 56, of the first block; 256 rows more two blocks more, of the six that there are.
    assert (uses["s"], uses["kv"], uses["o"]) == (1 + 3 + 5 + 6 + 6, 2 * (1 + 3 + 5 + 6 + 6), 5)


def test_what_is_left_out_touches_no_barrier(kernel: DryKernel) -> None:
    package = Path(str(kernel.variants.__file__)).parents[1]
    for name in VALUES:
        source = package.joinpath(*name.split(".")[1:]).with_suffix(".py").read_text()
        assert not re.search(r"mbarrier|commit(?!_group)|\brings\b|bar_", source), name


def test_a_cluster_is_refused(kernel: DryKernel) -> None:
    plan = SimpleNamespace(name="pair", manifest=lambda: {"cluster": [2, 1, 1]})
    with pytest.raises(NotImplementedError, match="pair: a dry run has the barriers of one CTA"):
        kernel.trace(plan, Launch(1, 1), 0)


# Every ring is in one of these, and the second has a ring of values with one slot. Tiles of one block, and of four.
BUGGY = [PLANS[f"jax_fa4_forward_sm100_bfloat16_{name}"] for name in ("d64_banded", "d192v128_general_float32")]
BUGGY_LAUNCH = Launch(300, 400, batch=2, key_value_seq_lengths=(100, 400))


@pytest.mark.parametrize("plan", BUGGY, ids=lambda plan: plan.name)
def test_whatever_is_missing_is_reported_by_its_ring(kernel: DryKernel, plan: Any) -> None:
    assert_missing_is_reported(kernel, plan, lambda warp: warp % 4 == 0 or warp > 12)


def assert_missing_is_reported(kernel: DryKernel, plan: Any, is_one: Callable[[int], bool]) -> None:
    """Leaves out the first and the last event of each kind of each warp that `is_one` for others like it."""
    traces, barriers = kernel.trace(plan, BUGGY_LAUNCH, 0), barriers_of(plan)
    unnoticed, tried = [], set()
    for warp, events in traces.items():
        lasts = {(kind, at): n for n, (kind, at, _) in enumerate(events)}
        firsts = {(kind, at): n for n, (kind, at, _) in reversed([*enumerate(events)])}
        for (kind, at), n in [*lasts.items(), *firsts.items()]:
            if warp in barriers[at].producers + barriers[at].consumers and is_one(warp):
                found = next(findings(kernel, plan, traces | {warp: events[:n] + events[n + 1 :]}), None)
                unnoticed += [(kind, barriers[at])] * (found is None or found[0] != barriers[at].ring.name)
                tried.add(barriers[at].ring.name)
    assert unnoticed == []
    assert tried == {ring.name for ring in plan.rings}


def swapped(events: list[Event], what: Any, of: Any, barriers: tuple[Barrier, ...]) -> list[Event]:
    """Moves each event of one kind ahead of the last of another kind before it."""
    result: list[Event] = []
    for event in events:
        kinds = [(kind, barriers[at].ring.name, barriers[at].is_full) for kind, at, _ in [*result, event]]
        moves = kinds[-1] == what and of in kinds[:-1]
        result.insert(len(result) - 1 - kinds[-2::-1].index(of) if moves else len(result), event)
    return result


@pytest.mark.parametrize(
    ("role", "what", "of", "ring"),
    [
        ("mma", ("arrive", "s", True), ("wait", "p", True), "s"),  # the next scores over weights in use
        ("softmax", ("arrive", "p_tail", True), ("wait", "s", True), "p_tail"),  # weights before their scores
        ("softmax", ("arrive", "factor", True), ("wait", "s", True), "factor"),
        ("correction", ("arrive", "inverse", False), ("wait", "inverse", True), "inverse"),  # handed back unread
        ("correction", ("wait", "o", True), ("arrive", "p", True), "o"),  # each waits for the other
        ("load", ("wait", "v", False), ("expect", "k", True), "v"),  # for a slot that is free after these keys
    ],
)
def test_a_swapped_order_is_reported_by_its_ring(kernel: DryKernel, role: str, what: Any, of: Any, ring: str) -> None:
    plan, first = BUGGY[1], BUGGY[1].role(role).first_warp
    traces = kernel.trace(plan, BUGGY_LAUNCH, 0)
    for warp in range(first, first + plan.role(role).warps):
        traces[warp] = swapped(traces[warp], what, of, barriers_of(plan))
    assert not [*count_uses(barriers_of(plan), traces)], "only the order is wrong"
    assert ring in dict(findings(kernel, plan, traces))


@pytest.mark.parametrize(
    ("variant", "forgotten", "ring"),
    [
        ("d192v128_general", "v", "clean"),  # values said to be clean before they are there
        ("d96_general", "owners", "kv"),  # an earlier lap of the slot, which held keys, has the parity of this one
    ],
)
def test_a_third_role_must_wait_too(kernel: DryKernel, variant: str, forgotten: str, ring: str) -> None:
    plan = PLANS[f"jax_fa4_forward_sm100_bfloat16_{variant}"]
    traces, barriers, owners = kernel.trace(plan, BUGGY_LAUNCH, 0), barriers_of(plan), plan.role("owners").first_warp
    traces[owners] = [each for each in traces[owners] if (each[0], barriers[each[1]].ring.name) != ("wait", forgotten)]
    assert ring in dict(Play(barriers, traces).findings)


@pytest.mark.parametrize(
    ("name", "wrong", "ring"),
    [("parity", lambda ring, use: 0, "s"), ("slot", lambda ring, use: 0, "kv"), ("of", lambda ring, i: ring, "q"),
     ("empty_barrier", lambda ring, use: ring.full_barrier(use), "out")],
)  # fmt: skip
def test_a_wrong_method_is_reported_by_a_ring_that_needs_it(name: str, wrong: Any, ring: str) -> None:
    kernel = DryKernel()
    setattr(kernel.ring, name, wrong)
    assert ring in dict(findings(kernel, BUGGY[0], kernel.trace(BUGGY[0], BUGGY_LAUNCH, 0)))


def test_a_role_that_does_nothing_is_reported_by_its_rings() -> None:
    kernel = DryKernel()
    kernel.forward.PROGRAMS["epilogue"] = kernel.forward.PROGRAMS["idle"]
    found = findings(kernel, BUGGY[1], kernel.trace(BUGGY[1], BUGGY_LAUNCH, 0))
    assert {"out", "room"} <= {ring for ring, _ in found}
