"""Timing on a GPU, and the figures that follow from it.

Calls are enqueued one after the other and waited for once, so that the GPU works without a gap and the time of a launch
counts only where the host is slower than the GPU. CUDA events would need XLA's stream, which JAX does not show; this
way the programs of JAX and of torch are treated alike, with nothing besides. How long the host enqueued is reported.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import gpu_peers
import peers
import timing
from cpu_cases import OURS
from gpu_cases import EVERYONE, Case, Sizes
from gpu_peers import GpuProgram

# XLA lets no more programs than this be in flight: one more, and the host waits while it enqueues.
MOST_IN_FLIGHT = 32
EFFORTS = {
    False: timing.Effort(seconds=2.0, least_rounds=5, most_rounds=15, batch_seconds=0.02),
    True: timing.Effort(seconds=0.5, least_rounds=3, most_rounds=7, batch_seconds=0.01),
}


class InFlight:
    """Times calls that are enqueued together, as many as fill the time."""

    def __init__(self) -> None:
        self.calls: dict[int, int] = {}

    def __call__(self, program: GpuProgram, least_seconds: float) -> timing.Batch:
        """Of the batch, core_seconds is the time in which the host enqueued."""
        if id(program) not in self.calls:
            one = self.enqueue(program, 3)
            wanted = math.ceil(least_seconds * one.calls / one.seconds)
            self.calls[id(program)] = max(1, min(wanted, MOST_IN_FLIGHT))
        return self.enqueue(program, self.calls[id(program)])

    def enqueue(self, program: GpuProgram, count: int) -> timing.Batch:
        """So many calls."""
        begun = time.perf_counter()
        for _ in range(count):
            result = program.run()
        enqueued = time.perf_counter()
        program.wait(result)
        return timing.Batch(count, time.perf_counter() - begun, enqueued - begun)


@dataclasses.dataclass
class Measurement:
    """The forward pass of one case."""

    case: Case
    seconds: dict[str, list[float]]
    """Of a call, in each round, by program."""
    host: dict[str, float]
    """The part of that time in which the host enqueued, the median, by program."""
    peaks: list[float]
    """Operations a second of a large bfloat16 matrix product, right before each round."""
    temporary: dict[str, int]
    """Bytes beyond operands and result, by program."""
    absent: dict[str, str]
    """Peers without a figure, and why."""

    def only(self, peers_of: Sequence[str]) -> Measurement:
        """Without the reasons of other peers."""
        return dataclasses.replace(self, absent={name: why for name, why in self.absent.items() if name in peers_of})

    def median(self, program: str = OURS) -> float:
        """Seconds of a call."""
        return timing.spread(self.seconds[program]).median

    def flops_per_second(self, program: str = OURS) -> float:
        """Counted operations over the median time."""
        return self.case.flops / self.median(program)

    def share(self) -> timing.Spread:
        """Ours, of the rate of the matrix product measured right before."""
        return timing.paired_ratios([self.case.flops / seconds for seconds in self.seconds[OURS]], self.peaks)

    def ratio(self, peer: str) -> timing.Spread | None:
        """How many times as long as ours the peer takes, within rounds."""
        return timing.paired_ratios(self.seconds[peer], self.seconds[OURS]) if peer in self.seconds else None


def from_json(rows: Sequence[dict[str, Any]]) -> list[Measurement]:
    """What dataclasses.asdict made of them."""
    return [Measurement(**{**row, "case": Case(**row["case"])}) for row in rows]


def prepare(case: Case) -> tuple[dict[str, GpuProgram], dict[str, str]]:
    """Programs that have run and are right, and why the others are not among them."""
    arrays = case.arrays()
    wanted = gpu_peers.expected(case, arrays)
    kept: dict[str, GpuProgram] = {}
    absent: dict[str, str] = {}
    for name in EVERYONE:
        if reason := gpu_peers.unable(name, case):
            absent[name] = reason
            continue
        try:
            program = gpu_peers.prepare(name, case, arrays)
            wrong = peers.disagreement(case, program.read(program.run()), [wanted])  # type: ignore[arg-type]
        except Exception as error:  # of a peer: the others still count, and the report says so
            if name == OURS:
                raise
            wrong = f"failed: {type(error).__name__}: {first_line(error)}"
        if wrong:
            absent[name] = wrong
        else:
            kept[name] = program
    if OURS not in kept:
        raise AssertionError(f"{case.name}: {OURS} {absent[OURS]}")
    return kept, absent


def first_line(error: Exception) -> str:
    """What an error says, shortened for a footnote."""
    lines = str(error).strip().splitlines()
    return lines[0][:120].replace("|", "/") if lines else ""


def measure(case: Case, sizes: Sizes, matrix: GpuProgram, *, is_quick: bool) -> Measurement:
    """One case, all programs in turn."""
    programs, absent = prepare(case)
    in_flight, effort, peaks = InFlight(), EFFORTS[is_quick], []

    def beside() -> None:
        found = in_flight(matrix, effort.batch_seconds)
        peaks.append(2 * sizes.matrix**3 * found.calls / found.seconds)

    timed = timing.interleaved(programs, effort, beside, one_batch=in_flight)
    host = {name: timing.spread(busy).median for name, busy in timed.busy.items()}
    temporary = {
        name: program.temporary_bytes for name, program in programs.items() if program.temporary_bytes is not None
    }
    return Measurement(case, timed.seconds, host, peaks, temporary, absent)
