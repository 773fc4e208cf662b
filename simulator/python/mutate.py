"""Mutation testing: each wait, arrive, fence and commit of a kernel is taken out in turn, and must be missed.

    python -m jax_fa4_simulator.mutate CASES.py [--only NAME]

CASES.py defines one or more `Case` objects. A mutant is caught if a launch of it reports something, fails, or computes
something else. Exit status 1 if one survives that its case does not explain.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ._simulator import Kernel
from .launching import Result, SimulatorError, bound

# What orders things and computes nothing. mbarrier.init is not among them: without it nothing works.
_SYNCHRONISES = re.compile(
    r"(mbarrier\.(arrive|expect_tx|complete_tx|try_wait|test_wait)|bar(rier)?\.|fence\.|membar|"
    r"tcgen05\.(wait|commit|fence)|wgmma\.(fence|commit_group|wait_group)|"
    r"cp\.async\.(bulk\.)?(commit_group|wait_group|wait_all|mbarrier)|griddepcontrol)"
)
# An access that orders others is weakened: it still reads and writes.
_STRENGTH = re.compile(r"^((?:ld|st|red|atom)(?:\.\S+?)?)\.(acquire|release|acq_rel)\b")


@dataclass(frozen=True)
class Mutant:
    """A kernel with one statement at `pc` taken out (`skip`) or weakened (in the kernel itself)."""

    kernel: Kernel
    pc: int
    line: int
    statement: str
    source: str
    skip: tuple[int, ...]

    def __str__(self) -> str:
        return f"ptx:{self.line:<6} {self.statement[:70]:<70}  {self.source}"


@dataclass(frozen=True)
class Case:
    """A kernel, how to launch it, and what must come out.

    launch(kernel, **options) makes fresh arrays, calls `run(kernel, ..., raise_on_report=False, **options)` and returns
      the Result and whatever `check` needs; launches are made on several threads at a time.
    check(results): raises AssertionError for a wrong result.
    explained: statement, source (file:line) or "ptx:LINE" of mutants that are equivalent, and why they are.
    """

    name: str
    kernel: Kernel | str | Path
    launch: Callable[..., tuple[Result, Any]]
    check: Callable[[Any], None]
    explained: Mapping[str, str] = field(default_factory=dict)

    def reason(self, mutant: Mutant) -> str | None:
        """Why a mutant that survives is equivalent, or nothing."""
        for key in (f"ptx:{mutant.line}", mutant.source, mutant.statement):
            if key in self.explained:
                return self.explained[key]
        return None


@dataclass(frozen=True)
class Verdict:
    """What caught a mutant, or None, and under which schedule; `executed`: the case gets to that statement at all."""

    mutant: Mutant
    caught_by: str | None
    schedule: str
    executed: bool


def _opcode(statement: str) -> str:
    return re.sub(r"^@!?%\w+\s+", "", statement).split(None, 1)[0].rstrip(";")


def _weakened(kernel: Kernel, line: int, statement: str) -> Kernel | None:
    strength = _STRENGTH.match(_opcode(statement))
    if not strength or not kernel.ptx:
        return None
    lines = kernel.ptx.split("\n")
    strong = strength.group(0)
    lines[line - 1] = lines[line - 1].replace(strong, f"{strength.group(1)}.relaxed", 1)
    return Kernel.from_ptx("\n".join(lines), kernel.file, kernel.name)


def mutants(kernel: Kernel) -> list[Mutant]:
    """One for each statement that synchronises, in the order of the text."""
    found = []
    for pc, (line, statement, source) in enumerate(
        zip(kernel.lines.tolist(), kernel.text, kernel.sources, strict=True)
    ):
        if _SYNCHRONISES.match(_opcode(statement)):
            found.append(Mutant(kernel, pc, line, statement, source, (pc,)))
        elif weak := _weakened(kernel, line, statement):
            found.append(Mutant(weak, pc, line, statement, source, ()))
    return found


def _verdict(case: Case, kernel: Kernel, options: Mapping[str, Any]) -> tuple[str | None, Result | None]:
    try:
        result, results = case.launch(kernel, **options)
    except SimulatorError as error:
        return f"report: {error.result.reports[0].kind}" if error.result.reports else "failure", error.result
    except ValueError:
        return "error", None
    if result.reports:
        return f"report: {result.reports[0].kind}", result
    if result.failed:
        return "failure", result
    try:
        case.check(results)
    except AssertionError:
        return "wrong result", result
    return None, result


def _schedules(seeds: int) -> list[dict[str, Any]]:
    return [{"schedule": "eager"}, {"schedule": "lazy"}, *({"schedule": "random", "seed": s} for s in range(seeds))]


def _name(options: Mapping[str, Any]) -> str:
    return " ".join(str(options[key]) for key in ("schedule", "seed") if key in options)


def _try(case: Case, schedules: Sequence[Mapping[str, Any]], limit: int, covered: set[int], mutant: Mutant) -> Verdict:
    executed = mutant.pc in covered
    for options in schedules if executed else ():
        caught, _ = _verdict(case, mutant.kernel, {**options, "skip": mutant.skip, "max_instructions": limit})
        if caught:
            return Verdict(mutant, caught, _name(options), executed)
    return Verdict(mutant, None, "", executed)


def mutate(case: Case, seeds: int = 4, jobs: int = 0) -> list[Verdict]:
    """Tries every mutant of a case under the eager, the lazy and `seeds` random schedules, until one catches it.

    jobs: mutants tried side by side; 0 is one for each processor. Raises ValueError if the case itself is not clean.
    """
    kernel = bound(case.kernel)
    schedules = _schedules(seeds)
    longest, covered = 0, set[int]()
    for options in schedules:
        caught, result = _verdict(case, kernel, options)
        if caught:
            text = "\n".join(report.text for report in result.reports) if result else ""
            raise ValueError(f"{case.name} is not clean without mutation ({_name(options)}: {caught})\n{text}")
        assert result
        longest = max(longest, int(result.executed.sum()))
        covered.update(result.executed.nonzero()[0].tolist())
    attempt = partial(_try, case, schedules, 20 * longest + 10_000, covered)
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        return list(pool.map(attempt, mutants(kernel)))


def survivors(case: Case, verdicts: Iterable[Verdict]) -> list[Mutant]:
    """Mutants that nothing caught and the case does not explain."""
    return [v.mutant for v in verdicts if v.caught_by is None and case.reason(v.mutant) is None]


def report(case: Case, verdicts: Sequence[Verdict]) -> str:
    """A line for each mutant, and the survivors with their reasons."""
    lines = [f"{case.name}: {sum(v.caught_by is not None for v in verdicts)} of {len(verdicts)} mutants caught"]
    lines += [f"  {v.mutant}  {v.caught_by} ({v.schedule})" for v in verdicts if v.caught_by]
    alive = [v for v in verdicts if v.caught_by is None]
    if alive:
        lines.append("  survivors")
    for v in alive:
        unexplained = "NOT EXPLAINED" if v.executed else "NOT EXPLAINED: the case never executes it"
        lines.append(f"  {v.mutant}  {case.reason(v.mutant) or unexplained}")
    return "\n".join(lines)


def _cases(files: Sequence[Path]) -> list[Case]:
    found: dict[int, Case] = {}
    for file in files:
        sys.path.insert(0, str(file.parent))
        for value in runpy.run_path(str(file)).values():
            for case in value if isinstance(value, list | tuple) else [value]:
                if isinstance(case, Case):
                    found[id(case)] = case
    return list(found.values())


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m jax_fa4_simulator.mutate", description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="CASES.py")
    parser.add_argument("--only", default="", metavar="NAME", help="cases whose name contains this")
    parser.add_argument("--seeds", type=int, default=4, help="random schedules")
    parser.add_argument("--jobs", type=int, default=0, help="mutants side by side; 0: one for each processor")
    arguments = parser.parse_args()
    unexplained = 0
    for case in _cases(arguments.files):
        if arguments.only in case.name:
            verdicts = mutate(case, arguments.seeds, arguments.jobs)
            print(report(case, verdicts), flush=True)
            unexplained += len(survivors(case, verdicts))
    if unexplained:
        print(f"{unexplained} survivors are not explained")
    return 1 if unexplained else 0


if __name__ == "__main__":
    # Run as a command this file is `__main__`; the cases import it by its name.
    sys.exit(importlib.import_module(f"{__package__}.mutate").main())
