"""A plan's barriers in a kernel: mbarriers that roles wait for and arrive at, by the number of the use.

A place is not an object that advances: use n of a ring takes slot n % slots in lap n // slots, and each role counts its
own uses in a local variable of its loop.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import cutlass
import cutlass.cute as cute
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.parts import Ring

FULL_WARP = 0xFFFFFFFF


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


@dataclass(frozen=True)
class OpenRing:
    """A ring whose mbarriers exist: the first of its full and of its empty ones."""

    row: Ring
    full: Any
    empty: Any

    def of(self, i: Any) -> Self:
        """Returns the copy of query tile i."""
        first = i * self.row.slots
        empty = self.empty.subview(first) if self.row.empty else None
        return dataclasses.replace(self, full=self.full.subview(first), empty=empty)

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

    def arrive_full(self, use: Any) -> None:
        """One arrival of a warp that made the slot full."""
        arrive_once(self.full_barrier(use))

    def arrive_empty(self, use: Any) -> None:
        """One arrival of a warp that hands the slot back."""
        arrive_once(self.empty_barrier(use))

    def expect(self, use: Any, size: int) -> None:
        """The arrival of one thread whose copies, of `size` bytes, will make the slot full."""
        ptx.mbarrier_arrive_expect_tx(self.full_barrier(use), size)


def open_rows(rows: tuple[Ring, ...], barriers: Any, kind: type[OpenRing] = OpenRing) -> dict[str, Any]:
    """Gives each ring its mbarriers, in the order of the table; returns them by name."""
    rings: dict[str, Any] = {}
    first = 0
    for row in rows:
        empty = barriers.subview(first + row.copies * row.slots) if row.empty else None
        rings[row.name] = kind(row, barriers.subview(first), empty)
        first += row.barriers
    return rings


def initialise(rings: Iterable[OpenRing | None]) -> None:
    """Sets every mbarrier's arrivals; for one thread, before the CTA meets. A ring may be there twice."""
    different = {id(ring): ring for ring in rings if ring is not None}
    for ring in different.values():
        row = ring.row
        for slot in range(row.copies * row.slots):
            ptx.mbarrier_init(ring.full.subview(slot), row.full)
            if row.empty:
                ptx.mbarrier_init(ring.empty.subview(slot), row.empty)
    ptx.fence_mbarrier_init()
