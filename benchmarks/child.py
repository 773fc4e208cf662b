"""Measures cases on the cores that its process may use, and writes what it found as a line of JSON each.

benchmarks/cpu.py starts it: once on one core, once on all.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cpu_cases as cases
import jax
import jax.numpy as jnp
import limits
import numpy as np
import peers
import timing
from cpu_cases import BLOCKWISE, DECODE, FEATURES, FORWARD, OURS, Case
from features import features
from measurement import Measurement

import jax_fa4
from jax_fa4 import extension

EFFORTS = {
    False: timing.Effort(seconds=0.8, least_rounds=3, most_rounds=12),
    True: timing.Effort(seconds=0.5, least_rounds=2, most_rounds=5),
}
# The programs of these take turns for each other's sake: one's cost is a few percent of the other.
FEATURE_EFFORTS = {
    False: timing.Effort(seconds=3.0, least_rounds=5, most_rounds=15),
    True: timing.Effort(seconds=2.0, least_rounds=3, most_rounds=5),
}
PEAK_SECONDS, READ_SECONDS = 0.008, 0.05
# A core is quiet when the mean rate of multiply-adds is this part of the best one that was ever seen on it. And what
# runs on one core alone has this part of its time.
QUIET, MOST_WAITS, WAIT_SECONDS = 0.9, 3, 0.03
TINY_CALLS, TINY_SHAPE = 1000, (1, 8, 1, 16)


class Beside:
    """Measures peaks before each round, and waits a little where something else runs on the cores."""

    def __init__(self, machine: limits.Limits, best: dict[str, float], instruction_sets: set[str]) -> None:
        self.machine, self.best, self.instruction_sets = machine, best, sorted(instruction_sets)
        self.peaks: dict[str, list[float]] = {name: [] for name in self.instruction_sets}
        self.loud_moments = 0

    def __call__(self) -> None:
        """Appends to the peaks."""
        for attempt in range(MOST_WAITS + 1):
            found = self.machine.measure(self.instruction_sets, PEAK_SECONDS)
            for name, rate in found.items():
                self.best[name] = max(self.best[name], rate.best)
            if attempt == MOST_WAITS or all(rate.mean >= QUIET * self.best[name] for name, rate in found.items()):
                break
            self.loud_moments += 1
            time.sleep(WAIT_SECONDS)
        for name, rate in found.items():
            self.peaks[name].append(rate.best)


@dataclasses.dataclass
class Bench:
    """A process that measures."""

    machine: limits.Limits
    best: dict[str, float]
    is_quick: bool

    @property
    def kernels(self) -> str:
        """The instruction set of ours that runs."""
        return os.environ.get("JAX_FA4_CPU_ISA") or extension.cpu_instruction_sets().split(",")[0].strip()

    def measure(self, case: Case, pass_name: str) -> Measurement:
        """Checks that all programs agree, then times them."""
        programs, absent = self.prepare(case, pass_name)
        own = limits.works_with(self.kernels, case.dtype)
        instruction_sets = {limits.fastest(self.best, case.dtype), own} & set(self.best)
        beside = Beside(self.machine, self.best, instruction_sets)
        read = [self.read_limit(case)]
        efforts = FEATURE_EFFORTS if case.group == FEATURES else EFFORTS
        runs = {name: program.run for name, program in programs.items()}
        timed = timing.interleaved(runs, efforts[self.is_quick], beside, self.quiet)
        read.append(self.read_limit(case))
        return self.measurement(case, pass_name, timed, beside, absent=absent, read=[rate for rate in read if rate])

    def measurement(
        self, case: Case, pass_name: str, timed: timing.Timed, beside: Beside, **others: Any
    ) -> Measurement:
        """What rounds found, with what is known besides."""
        cores = self.machine.threads
        busy = timing.spread(timed.busy[OURS]).median / cores
        loud = beside.loud_moments + timed.repeated
        return Measurement(case, pass_name, cores, self.kernels, timed.seconds, beside.peaks, loud, busy, **others)

    @property
    def quiet(self) -> float:
        """On several cores a program may leave some idle for reasons of its own."""
        return QUIET if self.machine.threads == 1 else 0.0

    def read_limit(self, case: Case) -> float:
        """0 where reading is not what limits."""
        return self.machine.read(case.key_value_bytes, READ_SECONDS) if case.group == DECODE else 0.0

    def prepare(self, case: Case, pass_name: str) -> tuple[dict[str, peers.Program], dict[str, str]]:
        """Programs that have run and agree with blockwise, and why the others are not among them."""
        kept: dict[str, peers.Program] = {}
        absent: dict[str, str] = {}
        for name, make, reference in self.programs(case, pass_name):
            if reason := peers.unable(name, case, pass_name):
                absent[name] = reason
                continue
            try:
                program = make()
                wrong = peers.disagreement(case, results_of(program), reference())
            except Exception as error:  # of a peer: the others still count, and the report says so
                if name == OURS:
                    raise
                wrong = f"failed: {type(error).__name__}"
            if wrong:
                absent[name] = wrong
                print(f"{case.name}, {pass_name}: {name} {wrong}", file=sys.stderr)
            else:
                kept[name] = program
        if OURS not in kept:
            raise AssertionError(f"{case.name}, {pass_name}: {OURS} {absent[OURS]}")
        return kept, absent

    def programs(self, case: Case, pass_name: str) -> Iterator[tuple[str, Callable[[], Any], Callable[[], Any]]]:
        """Name, maker, and the results to expect: blockwise's."""
        if case.group == FEATURES:
            for name, (options, others) in {OURS: ({}, {}), **features(case)}.items():
                make = functools.partial(
                    peers.jax_program, case=case, pass_name=pass_name, options=options, others=others
                )
                yield name, functools.partial(make, OURS), functools.partial(results_of_blockwise, make)
            return
        blockwise = peers.jax_program(BLOCKWISE, case, pass_name)
        expected = results_of(blockwise)
        for name in case.programs:
            make = functools.partial(peers.prepare, name, case, pass_name, self.machine.threads)
            yield name, (lambda: blockwise) if name == BLOCKWISE else make, lambda: expected

    def measure_tiny(self) -> Measurement:
        """Time of a call from Python, in a chain of calls; x + 1 is what JAX itself takes."""
        x = jnp.ones(TINY_SHAPE)
        attend = jax.jit(lambda x: jax_fa4.attention(x, x, x, implementation="cpu"))
        add = jax.jit(lambda x: x + 1)

        def chain(step: Callable[[Any], Any]) -> Callable[[], Any]:
            def run() -> Any:
                y = x
                for _ in range(TINY_CALLS):
                    y = step(y)
                return y

            jax.block_until_ready(run())
            return run

        beside = Beside(self.machine, self.best, {limits.fastest(self.best, "float32")})
        programs = {OURS: chain(attend), "x + 1": chain(add)}
        timed = timing.interleaved(programs, EFFORTS[self.is_quick], beside, self.quiet)
        timed.seconds = {name: [one / TINY_CALLS for one in found] for name, found in timed.seconds.items()}
        length, head_dim = TINY_SHAPE[1], TINY_SHAPE[3]
        case = Case(cases.TINY, "float32", length, length, 1, 1, head_dim, passes=(FORWARD,), programs=(OURS,))
        return self.measurement(case, FORWARD, timed, beside, absent={})


def results_of_blockwise(make: Callable[[str], peers.Program]) -> list[Any]:
    return results_of(make(BLOCKWISE))


def results_of(program: peers.Program) -> list[Any]:
    """Copies, as a program may write into the same memory again."""
    return [np.array(array) for array in program.read(jax.block_until_ready(program.run()))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", type=Path, help="compiled limits.cc")
    parser.add_argument("output", type=Path, help="file to append to")
    parser.add_argument("--cores", choices=("one", "all"), required=True)
    parser.add_argument("--names", nargs="*", required=True, help="of the cases")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    threads = 1 if options.cores == "one" else threads
    os.environ[peers.THREADS_VARIABLE] = str(threads)
    machine = limits.Limits(options.program, threads)
    bench = Bench(machine, machine.peaks(seconds=0.05), options.quick)
    listed = cases.of_one_core() if options.cores == "one" else cases.of_all_cores()
    with options.output.open("a") as file:

        def write(found: Measurement) -> None:
            file.write(json.dumps(dataclasses.asdict(found)) + "\n")
            file.flush()

        for case in listed:
            for pass_name in case.passes if case.name in options.names else ():
                print(f"{options.cores} core: {case.name}, {pass_name}", file=sys.stderr, flush=True)
                write(bench.measure(case, pass_name))
        if cases.TINY in options.names:
            write(bench.measure_tiny())


if __name__ == "__main__":
    main()
