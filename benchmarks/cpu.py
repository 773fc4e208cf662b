"""What the CPU kernel reaches of the machine's own limits, and beside other implementations: `make bench`.

Measures the limits first, then cases on one pinned core and on all cores, then memory; judges the marks; reports.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cpu_cases as cases
import machine
import memory
import plot
import report
from limits import Limits, compile_program
from measurement import Measurement, Results, from_json

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "cpu_benchmark.md", DOCS / "cpu_benchmark.png"
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


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern fits the whole name, or is its group."""
    return fnmatch.fnmatchcase(name, pattern) or name.split("/")[0] == pattern


def select(options: argparse.Namespace) -> list[str]:
    """Names of the cases to measure."""
    names = names_of_cases()
    patterns = options.cases or (cases.QUICK if options.quick else ["*"])
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            sys.exit(f"--cases {pattern} matches none of:\n" + "\n".join(names))
    return [name for name in names if any(matches(name, pattern) for pattern in patterns)]


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
    names = select(options)
    cores = machine.all_cores()
    places = {ONE: cores[-1:], ALL: cores} if len(cores) > 1 else {ONE: cores}
    found = Found(command(options), machine.describe(), {}, {}, Results([], []), [])
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


def write_json(path: Path, found: Found) -> None:
    """Every time that was measured."""
    path.write_text(json.dumps(dataclasses.asdict(found), indent=1) + "\n")


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


def command(options: argparse.Namespace) -> str:
    """Which measures the same again; without where it was told to write."""
    words = ["--quick"] * options.quick + (["--cases", *options.cases] if options.cases else [])
    return shlex.join(["python", "benchmarks/cpu.py", *words])


def write_docs(found: Found) -> None:
    has_picture = plot.draw(found.results, found.machine["machine"], PICTURE)
    head = ["# CPU benchmark", f"Written by `{found.command} --write-docs`."]
    head.append("\n".join(f"* {name}: {text}" for name, text in found.machine.items()))
    if has_picture:
        head.append(f"![Speed over length]({PICTURE.name})")
    PAGE.write_text("\n\n".join([*head, body(found, report.Style(markdown=True))]) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few cases, in few rounds, under a minute")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="groups, or patterns of names, as 'decode/*-t1-*'")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every time that was measured")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing; report what FILE has")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"also write docs/{PAGE.name} and docs/{PICTURE.name}"
    )
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    if options.list:
        print("\n".join(names_of_cases()))
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    begun = time.perf_counter()
    found = read_json(options.from_json) if options.from_json else measure(options)
    print("\n" + body(found, report.Style(options.markdown)))
    if not options.from_json:
        print(f"\nThis took {time.perf_counter() - begun:.0f} seconds.")
    if options.json:
        write_json(options.json, found)
    if options.write_docs:
        write_docs(found)
    sys.exit(1 if found.failures else 0)


if __name__ == "__main__":
    main()
