"""What the CPU kernel reaches of the machine's own limits, and beside other implementations: `make bench`.

Measures the limits first, then cases on one pinned core and on all cores, then memory; judges the marks; reports.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import command
import cpu_cases as cases
import machine
import memory
import plot
import report
from limits import Limits, compile_program
from measurement import Measurement, Results, from_json

PAGE, PICTURE = command.DOCS / "cpu_benchmark.md", command.DOCS / "cpu_benchmark.png"
CHILD = Path(__file__).with_name("child.py")
ONE, ALL = "one core", "all cores"

# Far beyond most machines' caches; the cases of decoding have limits of their own.
READ_BYTES = 2**30
LIMIT_SECONDS = {False: 0.3, True: 0.05}


@dataclasses.dataclass
class Found:
    """A whole run."""

    command: str
    machine: dict[str, str]
    peaks: dict[str, dict[str, float]]
    reads: dict[str, float]
    results: Results
    failures: list[str]


def names_of_cases() -> list[str]:
    names = [case.name for case in (*cases.of_one_core(), *cases.of_all_cores())]
    return [*dict.fromkeys(names), cases.TINY, cases.MEMORY]


def measure_limits(program: Path, places: Mapping[str, Sequence[int]], found: Found, *, is_quick: bool) -> None:
    seconds = LIMIT_SECONDS[is_quick]
    for place, cores in places.items():
        with machine.pinned(cores):
            limits = Limits(program, len(cores))
            found.peaks[place] = limits.peaks(seconds)
            found.reads[place] = limits.read(READ_BYTES, seconds)


def measure_cases(
    program: Path, place: str, cores: Sequence[int], names: Sequence[str], found: Found, *, is_quick: bool
) -> None:
    """In a process of its own. What it had found counts even if it fails."""
    with tempfile.TemporaryDirectory() as folder, machine.pinned(cores):
        output = Path(folder) / "found"
        output.touch()
        which = "one" if place == ONE else "all"
        command = [sys.executable, str(CHILD), str(program), str(output), "--cores", which, "--names", *names]
        ended = subprocess.run(command + ["--quick"] * is_quick)
        found.results.measurements += from_json([json.loads(line) for line in output.read_text().splitlines()])
    if ended.returncode:
        found.failures.append(f"measuring on {place} ended with {ended.returncode}")


def failed_peers(measurements: Sequence[Measurement]) -> list[str]:
    """Peers left out for what they computed, or could not compute."""
    return [
        f"{one.case.name}, {one.pass_name}: {peer} {reason}"
        for one in measurements
        for peer, reason in one.absent.items()
        if reason.startswith(("differs", "failed"))
    ]


def measure(options: argparse.Namespace) -> Found:
    names = command.select(names_of_cases(), options.cases or (cases.QUICK if options.quick else ["*"]))
    cores = machine.all_cores()
    places = {ONE: cores[-1:], ALL: cores} if len(cores) > 1 else {ONE: cores}
    found = Found(command.command("cpu.py", options), machine.describe(), {}, {}, Results([], []), [])
    for name, text in found.machine.items():
        print(f"{name}: {text}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        program = compile_program(Path(folder))
        measure_limits(program, places, found, is_quick=options.quick)
        for place, of_place in places.items():
            listed = cases.of_one_core() if place == ONE else cases.of_all_cores()
            chosen = [name for name in names if name == cases.TINY or name in {case.name for case in listed}]
            if chosen:
                measure_cases(program, place, of_place, chosen, found, is_quick=options.quick)
    if cases.MEMORY in names:
        found.results.memory = memory.measure_all()
    found.failures += failed_peers(found.results.measurements)
    return found


def read_json(path: Path) -> Found:
    """What write_json wrote."""
    row: dict[str, Any] = json.loads(path.read_text())
    kept = [memory.Memory(**one) for one in row["results"]["memory"]]
    return Found(**{**row, "results": Results(from_json(row["results"]["measurements"]), kept)})


def body(found: Found, style: report.Style) -> str:
    parts = [report.limits(style, found.peaks, found.reads), *report.sections(style, found.results)]
    if found.failures:
        parts.append(style.section("What went wrong", "\n".join(found.failures)))
    return "\n\n".join(parts)


def write_docs(found: Found) -> None:
    has_picture = plot.draw(found.results, found.machine["machine"], PICTURE)
    picture = PICTURE.name if has_picture else None
    text = command.page(
        "CPU benchmark", found.command, found.machine, picture, body(found, report.Style(markdown=True))
    )
    PAGE.write_text(text)


def main() -> None:
    options = command.parser_of(
        __doc__, "a few cases, in few rounds: about a minute", "decode/*-t1-*", PAGE
    ).parse_args()
    if options.list:
        print("\n".join(names_of_cases()))
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    command.run(options, measure, read_json, body, write_docs)


if __name__ == "__main__":
    main()
