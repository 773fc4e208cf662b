"""Interleaved timing: each round runs every program once, so what disturbs the machine disturbs all of them."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    lower: float
    median: float
    upper: float


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure: for `seconds`, but within these numbers of rounds."""

    seconds: float
    least_rounds: int
    most_rounds: int


def spread(values: Sequence[float]) -> Spread:
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def interleaved(programs: Mapping[str, Callable[[], Any]], effort: Effort) -> dict[str, list[float]]:
    """Seconds of each run of each program, one per round. They must have run before: no warm-up here."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    start = time.perf_counter()
    for finished in range(effort.most_rounds):
        if finished >= effort.least_rounds and time.perf_counter() - start > effort.seconds:
            break
        for name, run in programs.items():
            before = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - before)
    return seconds


def paired_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Spread of the ratio of two programs' times within a round."""
    return spread([over / under for over, under in zip(numerator, denominator, strict=True)])
