"""The plan's barriers in a kernel: mbarriers that roles wait for and arrive at, by the number of the use.

A place is not an object that advances: use n of a ring takes slot n % slots in lap n // slots, and each role counts its
own uses in a local variable of its loop.

Of a pair of CTAs the first leads: its MMA role works for both. What that role waits for is told to the leader's
barriers, by both CTAs, and what it tells is told to the barriers of both.
"""

from dataclasses import dataclass, fields
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.sm100.parts import Ring
from jax_fa4.kernels.sm100.plan import ForwardPlan

FULL_WARP = 0xFFFFFFFF
LEADER = 0  # its rank in the pair
EVERYONE = 3  # the ranks of both as bits


@cute.jit
def wait(barrier, parity, relaxed: cutlass.Constexpr = False):
    """Blocks until the phase of this parity is complete; where relaxed, tensor memory has fences of its own."""
    order = {"scope": "cluster", "order": "relaxed"} if relaxed else {}
    while not ptx.mbarrier_try_wait_parity(barrier, parity, **order):
        pass


@cute.jit
def arrive_once(barrier):
    """One arrival for the whole warp."""
    if ptx.elect_sync():
        ptx.mbarrier_arrive(barrier)


@cute.jit
def arrive_at_leader(barrier):
    """Likewise, at the leader's barrier. Not a release: one to the cluster would wait for writes to global memory."""
    if ptx.elect_sync():
        ptx.mbarrier_arrive(ptx.mapa(barrier, LEADER), scope="cluster", relaxed=True)


@cute.jit
def commit_once(barrier, pair: cutlass.Constexpr):
    """Arrives, in both CTAs of a pair, once the tensor core instructions issued so far are done."""
    if ptx.elect_sync():
        both = {"group": group_of(pair), "multicast_mask": cutlass.Int16(EVERYONE)} if pair else {}
        ptx.tcgen05_commit(barrier, **both)


@cute.jit
def expect(barrier, size: cutlass.Constexpr, pair: cutlass.Constexpr):
    """An arrival that expects copies of `size` bytes; of a pair the leader's is one for both."""
    if leads(pair):
        ptx.mbarrier_arrive_expect_tx(barrier, size * (1 + pair))


def group_of(pair: bool) -> str:
    """Returns the CTAs that an instruction of the tensor core, or a copy for it, is for."""
    return "cta_2" if pair else "cta_1"


def rank(pair: bool) -> Any:
    """Returns which CTA of its pair this is."""
    # The register %cluster_ctarank says the same, but ptxas does not know that its value is the same for a warp.
    block, _, _ = cute.arch.block_idx()
    return block % 2 if pair else LEADER


def leads(pair: bool) -> Any:
    """Whether this CTA leads its pair, or is alone."""
    return cutlass.Boolean(rank(pair) == LEADER)


@dataclass(frozen=True)
class OpenRing:
    """A ring whose mbarriers exist: the first of its full and of its empty ones."""

    row: Ring
    full: Any
    empty: Any

    def of(self, i: Any) -> "OpenRing":
        """Returns the copy of query tile i."""
        first = i * self.row.slots
        return OpenRing(self.row, self.full.subview(first), self.empty.subview(first) if self.row.empty else None)

    def slot(self, use: Any) -> Any:
        """Returns the slot of this use."""
        return use % self.row.slots if self.row.slots > 1 else 0

    def parity(self, use: Any) -> Any:
        """Returns the parity of the lap that this use is in."""
        lap = use // self.row.slots if self.row.slots > 1 else use
        return lap & 1

    def full_barrier(self, use: Any) -> Any:
        """Returns what the producer of this use arrives at."""
        return self.full.subview(self.slot(use))

    def empty_barrier(self, use: Any) -> Any:
        """Returns what the consumer of this use arrives at."""
        return self.empty.subview(self.slot(use))

    @property
    def is_relaxed(self) -> bool:
        """Whether two CTAs pass nothing but tensor memory, which tcgen05.fence and commits order."""
        return self.row.pair and self.row.producer != "load"

    def wait_full(self, use: Any) -> None:
        """The consumer waits until this use is there."""
        wait(self.full_barrier(use), self.parity(use), self.is_relaxed)

    def wait_empty(self, use: Any) -> None:
        """The producer waits until the slot is free for this use; at once in the first lap."""
        wait(self.empty_barrier(use), self.parity(use) ^ 1)

    def arrive_full(self, use: Any) -> None:
        """One arrival of a warp that made the slot full."""
        if self.row.pair:
            arrive_at_leader(self.full_barrier(use))
        else:
            arrive_once(self.full_barrier(use))

    def arrive_empty(self, use: Any) -> None:
        """One arrival of a warp that hands the slot back."""
        arrive_once(self.empty_barrier(use))

    def expect(self, use: Any, size: int) -> None:
        """The arrival of one thread whose copies, of `size` bytes in each CTA, will make the slot full."""
        expect(self.full_barrier(use), size, self.row.pair)

    def commit_full(self, use: Any) -> None:
        """The tensor core's arrival when what it was asked for so far is there."""
        commit_once(self.full_barrier(use), self.row.pair)

    def commit_empty(self, use: Any) -> None:
        """The tensor core's arrival when it has read what it was asked for so far."""
        commit_once(self.empty_barrier(use), self.row.pair)


@dataclass(frozen=True)
class Rings:
    """All rings of the plan; those of K and V are one where both share it."""

    q: OpenRing
    keys: OpenRing
    values: OpenRing
    s: OpenRing
    p: OpenRing
    p_tail: OpenRing
    factor: OpenRing
    inverse: OpenRing
    o: OpenRing
    out: OpenRing
    # Those that some plans have not.
    room: Any = None
    owners: Any = None
    clean: Any = None


def open_rings(plan: ForwardPlan, barriers: Any) -> Rings:
    """Gives each ring its mbarriers, in the order of the table."""
    rings: dict[str, OpenRing] = {}
    first = 0
    for row in plan.rings:
        empty = barriers.subview(first + row.copies * row.slots) if row.empty else None
        rings[row.name] = OpenRing(row, barriers.subview(first), empty)
        first += row.barriers
    keys, values = rings[plan.keys.ring], rings[plan.values.ring]
    named = {field.name for field in fields(Rings)}
    return Rings(keys=keys, values=values, **{name: ring for name, ring in rings.items() if name in named})


def initialise(rings: Rings) -> None:
    """Sets every mbarrier's arrivals; for one thread, before the CTA meets."""
    different = {id(ring): ring for ring in vars(rings).values() if ring is not None}
    for ring in different.values():
        row = ring.row
        for slot in range(row.copies * row.slots):
            ptx.mbarrier_init(ring.full.subview(slot), row.full)
            if row.empty:
                ptx.mbarrier_init(ring.empty.subview(slot), row.empty)
    ptx.fence_mbarrier_init()
