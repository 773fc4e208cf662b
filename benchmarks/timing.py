"""Interleaved timing: each round runs every program once, so what disturbs the machine disturbs all of them."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

# Between two programs: the threads of some go on looking for work for a while after their last.
REST_SECONDS = 0.002
FEWEST_ROUNDS = 2


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    lower: float
    median: float
    upper: float


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure: for `seconds`, of which each program has an equal part, but within these numbers of rounds.

    A program that has used its part rests; the others go on. One that takes all of the seconds by itself before the
    least rounds are over rests after two. Calls shorter than `batch_seconds` are timed together.
    """

    seconds: float
    least_rounds: int
    most_rounds: int
    batch_seconds: float = 0.005


@dataclasses.dataclass
class Timed:
    """What rounds found, by program: seconds of a call, and the cores' time that the process had over the clock's."""

    seconds: dict[str, list[float]]
    busy: dict[str, list[float]]
    repeated: int = 0
    """Batches that were thrown away and run again, because something else had part of the core."""


def spread(values: Sequence[float]) -> Spread:
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclasses.dataclass(frozen=True)
class Batch:
    """Calls timed together: the clock's seconds, and those that cores worked for this process."""

    calls: int
    seconds: float
    core_seconds: float

    @property
    def busy(self) -> float:
        """Below 1 on one core, something else ran on it, or the program waited."""
        return self.core_seconds / self.seconds


def batch(run: Callable[[], Any], least_seconds: float) -> Batch:
    """Calls, each waited for, until so much time has passed."""
    core_before, before, calls = time.process_time(), time.perf_counter(), 0
    while not calls or time.perf_counter() - before < least_seconds:
        jax.block_until_ready(run())
        calls += 1
    return Batch(calls, time.perf_counter() - before, time.process_time() - core_before)


def interleaved(
    programs: Mapping[str, Any],
    effort: Effort,
    beside: Callable[[], Any] = lambda: None,
    quiet: float = 0.0,
    one_batch: Callable[[Any, float], Batch] = batch,
) -> Timed:
    """Times all programs, in rounds. They must have run before: no warm-up here.

    Args:
      programs: by name; all take part in the first rounds, as long as their part of the time lasts.
      effort: see there.
      beside: called at the start of each round.
      quiet: a batch in which the process was less busy is run again, twice at most for each program: a program that
        is never as busy as that waits for something of its own.
      one_batch: runs a program for at least so many seconds; by default programs are functions without arguments.
    """
    timed = Timed({name: [] for name in programs}, {name: [] for name in programs})
    spent, repeats = dict.fromkeys(programs, 0.0), dict.fromkeys(programs, 2)
    for finished in range(effort.most_rounds):
        part = effort.seconds / len(programs) if finished >= effort.least_rounds else effort.seconds
        running = [
            name
            for name in programs
            if len(timed.seconds[name]) == finished and (finished < FEWEST_ROUNDS or spent[name] < part)
        ]
        if not running:
            break
        beside()
        for name in running:
            time.sleep(REST_SECONDS)
            found = one_batch(programs[name], effort.batch_seconds)
            while found.busy < quiet and repeats[name]:
                repeats[name] -= 1
                timed.repeated += 1
                found = one_batch(programs[name], effort.batch_seconds)
            timed.seconds[name].append(found.seconds / found.calls)
            timed.busy[name].append(found.busy)
            spent[name] += found.seconds
    return timed


def paired_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Spread of the ratio of two programs' figures within a round, of the rounds that have both."""
    return spread([over / under for over, under in zip(numerator, denominator, strict=False)])
