"""What one pass of one case took, and the figures that follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import limits
import timing
from cpu_cases import CORES, DECODE, FEATURES, FORWARD, OURS, TINY, Case

# Of the peak, what a forward pass without a mask is to reach: decoding cannot do better than it.
FORWARD_MARK = {"float32": 0.88, "bfloat16": 0.84}


@dataclasses.dataclass
class Measurement:
    """One pass of one case."""

    case: Case
    pass_name: str
    cores: int
    kernels: str
    """The instruction set of our kernels, by the name that JAX_FA4_CPU_ISA has for it."""
    seconds: dict[str, list[float]]
    """Of a call, in each round, by program."""
    peaks: dict[str, list[float]]
    """Operations a second of all cores in use, right before each round, by instruction set."""
    loud_moments: int
    """How often a round waited, or a batch was run again, because something else ran on the cores."""
    busy: float
    """Of the cores in use, what this process had while ours ran; the median."""
    absent: dict[str, str]
    """Peers without a figure, and why."""
    read: list[float] = dataclasses.field(default_factory=list)
    """When decoding: bytes a second, read from as many bytes as the keys and values have, before and after."""

    def median(self, program: str = OURS) -> float:
        """Seconds of a call."""
        return timing.spread(self.seconds[program]).median

    def flops_per_second(self, program: str = OURS) -> float:
        """Counted operations over the median time."""
        return self.case.flops(self.pass_name) / self.median(program)

    def share(self, instruction_set: str | None = None) -> timing.Spread:
        """Ours, of the peak measured right beside; by default that of the fastest instruction for the dtype."""
        peaks = self.peaks[instruction_set or self.fastest]
        flops = self.case.flops(self.pass_name)
        return timing.paired_ratios([flops / seconds for seconds in self.seconds[OURS]], peaks)

    @property
    def fastest(self) -> str:
        """The machine's fastest instruction set for the dtype."""
        return limits.fastest(
            {name: timing.spread(peaks).median for name, peaks in self.peaks.items()}, self.case.dtype
        )

    @property
    def own(self) -> str:
        """The instruction set that our kernel works with."""
        return limits.works_with(self.kernels, self.case.dtype)

    def ratio(self, peer: str, of: str = OURS) -> timing.Spread | None:
        """How many times as long as ours the peer takes."""
        return timing.paired_ratios(self.seconds[peer], self.seconds[of]) if peer in self.seconds else None

    def roofline_share(self) -> timing.Spread:
        """Of what reading the keys and values once, or the operations at the forward mark, would take at least."""
        peak = timing.spread(self.peaks[self.fastest]).median
        reading = self.case.key_value_bytes / max(self.read)
        least = max(reading, self.case.flops(FORWARD) / (peak * FORWARD_MARK[self.case.dtype]))
        return timing.spread([least / seconds for seconds in self.seconds[OURS]])


@dataclasses.dataclass
class Memory:
    """Bytes by which a process grows in forward and backward, beyond its inputs."""

    program: str
    length: int
    heads: int
    head_dim: int
    grown: int | None
    why_not: str = ""

    @property
    def factor(self) -> float:
        """Of float32 numbers, in B N (T + S) H."""
        return (self.grown or 0) / (4 * self.heads * 2 * self.length * self.head_dim)


@dataclasses.dataclass
class Results:
    """All that a run measured."""

    measurements: list[Measurement]
    memory: list[Memory]

    def of_group(self, group: str) -> list[Measurement]:
        """Those of a group, on one core first."""
        return [found for found in self.measurements if found.case.group == group]

    def marked(self, pass_name: str, dtype: str, mask: str, least: int = 2048) -> list[Measurement]:
        """Those on one core that the marks are about: no grouped heads, head_dim 64 or 128, long enough."""
        others = (CORES, DECODE, FEATURES, TINY)
        return [
            found for found in self.measurements
            if found.case.group not in others and (found.pass_name, found.case.dtype) == (pass_name, dtype)
            and found.case.mask == mask and found.case.queries >= least and found.case.head_dim in (64, 128)
            and found.case.heads == found.case.key_value_heads
        ]  # fmt: skip


def from_json(rows: Sequence[dict]) -> list[Measurement]:
    """What dataclasses.asdict made of them."""
    found = []
    for row in rows:
        case = {**row["case"], "passes": tuple(row["case"]["passes"]), "programs": tuple(row["case"]["programs"])}
        found.append(Measurement(**{**row, "case": Case(**case)}))
    return found
