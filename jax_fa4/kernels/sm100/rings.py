"""The rings of a CTA or pair, and what the tensor core tells them.

Of a pair of CTAs the first leads: its MMA role works for both. What that role waits for is told to the leader's
barriers, by both CTAs, and what it tells is told to the barriers of both.
"""

from dataclasses import dataclass, fields
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.rings import OpenRing, arrive_once, open_rows, wait
from jax_fa4.kernels.sm100.plan import ForwardPlan

LEADER = 0  # its rank in the pair
EVERYONE = 3  # the ranks of both as bits


@cute.jit
def arrive_at_leader(barrier):
    """One arrival for the whole warp, at the leader's barrier.

    Not a release: one to the cluster would wait for writes to global memory.
    """
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
class PairedRing(OpenRing):
    """A ring that may pass between the CTAs of a pair, or from the tensor core."""

    @property
    def is_relaxed(self) -> bool:
        """Whether two CTAs pass nothing but tensor memory, which tcgen05.fence and commits order."""
        return self.row.pair and self.row.producer != "load"

    def wait_full(self, use: Any) -> None:
        """The consumer waits until this use is there."""
        wait(self.full_barrier(use), self.parity(use), self.is_relaxed)

    def arrive_full(self, use: Any) -> None:
        """One arrival of a warp that made the slot full."""
        if self.row.pair:
            arrive_at_leader(self.full_barrier(use))
        else:
            arrive_once(self.full_barrier(use))

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

    q: PairedRing
    keys: PairedRing
    values: PairedRing
    s: PairedRing
    p: PairedRing
    p_tail: PairedRing
    factor: PairedRing
    inverse: PairedRing
    o: PairedRing
    out: PairedRing
    # Those that some plans have not.
    room: Any = None
    owners: Any = None
    clean: Any = None


def open_rings(plan: ForwardPlan, barriers: Any) -> Rings:
    """Gives each ring its mbarriers, in the order of the table."""
    rings = open_rows(plan.rings, barriers, PairedRing)
    keys, values = rings[plan.keys.ring], rings[plan.values.ring]
    named = {field.name for field in fields(Rings)}
    return Rings(keys=keys, values=values, **{name: ring for name, ring in rings.items() if name in named})
