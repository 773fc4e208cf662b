"""The plan's barriers in a kernel: mbarriers that roles wait for and arrive at, by the number of the use.

A place is not an object that advances: use n of a ring takes slot n % slots in lap n // slots, and each role counts its
own uses in a local variable of its loop.
"""

from dataclasses import dataclass, fields
from typing import Any

import cutlass.cute as cute
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.sm100.parts import Ring
from jax_fa4.kernels.sm100.plan import ForwardPlan

FULL_WARP = 0xFFFFFFFF


@cute.jit
def wait(barrier, parity):
    """Blocks until the phase of this parity is complete."""
    while not ptx.mbarrier_try_wait_parity(barrier, parity):
        pass


@cute.jit
def arrive_once(barrier):
    """One arrival for the whole warp."""
    if ptx.elect_sync():
        ptx.mbarrier_arrive(barrier)


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

    def wait_full(self, use: Any) -> None:
        """The consumer waits until this use is there."""
        wait(self.full_barrier(use), self.parity(use))

    def wait_empty(self, use: Any) -> None:
        """The producer waits until the slot is free for this use; at once in the first lap."""
        wait(self.empty_barrier(use), self.parity(use) ^ 1)


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
