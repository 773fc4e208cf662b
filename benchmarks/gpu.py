"""What the CUDA kernels reach of the card's matrix products, and beside other implementations: `make bench-gpu`.

All programs of a case take turns in one process. `--platform cpu` is a trial without a GPU: small shapes and the CPU's
kernel, to see that everything works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

# Before JAX starts: torch needs memory beside it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import card
import gpu_cases as cases
import gpu_report
from cpu import matches
from gpu_measurement import Measurement, from_json, measure
from report import Style

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "gpu_benchmark.md", DOCS / "gpu_benchmark.png"


@dataclasses.dataclass
class Found:
    """A whole run."""

    command: str
    card: dict[str, str]
    measurements: list[Measurement]
    failures: list[str]


def select(options: argparse.Namespace, sizes: cases.Sizes) -> list[cases.Case]:
    """Cases to measure."""
    listed = cases.all_cases(sizes)
    if options.quick and not options.cases:
        return cases.quick_cases(sizes)
    patterns = options.cases or ["*"]
    for pattern in patterns:
        if not any(matches(case.name, pattern) for case in listed):
            sys.exit(f"--cases {pattern} matches none of:\n" + "\n".join(case.name for case in listed))
    return [case for case in listed if any(matches(case.name, pattern) for pattern in patterns)]


def command(options: argparse.Namespace) -> str:
    """Which measures the same again; without where it was told to write."""
    words = ["--quick"] * options.quick + (["--cases", *options.cases] if options.cases else [])
    words += ["--platform", options.platform] if options.platform != "cuda" else []
    return shlex.join(["python", "benchmarks/gpu.py", *words])


def run(options: argparse.Namespace) -> Found:
    """Measures; what was found counts even if a later case fails."""
    import gpu_peers

    sizes = cases.OF_A_GPU if options.platform == "cuda" else cases.OF_A_TRIAL
    found = Found(command(options), card.describe(), [], [])
    for name, text in found.card.items():
        print(f"{name}: {text}", flush=True)
    matrix = gpu_peers.matrix_program(sizes.matrix)
    with card.sampled(found.card):
        for case in select(options, sizes):
            try:
                one = measure(case, sizes, matrix, is_quick=options.quick)
            except Exception as error:  # the others count, and the report says so
                found.failures.append(f"{case.name}: {type(error).__name__}: {error}")
                print(found.failures[-1], file=sys.stderr, flush=True)
                continue
            found.measurements.append(one)
            print(f"{case.name}: {one.flops_per_second() / 1e12:.4g} TFLOP/s", file=sys.stderr, flush=True)
            if options.json:
                write_json(options.json, found)
    return found


def write_json(path: Path, found: Found) -> None:
    """Every time that was measured."""
    path.write_text(json.dumps(dataclasses.asdict(found), indent=1) + "\n")


def read_json(path: Path) -> Found:
    """What write_json wrote."""
    row: dict[str, Any] = json.loads(path.read_text())
    return Found(**{**row, "measurements": from_json(row["measurements"])})


def body(found: Found, style: Style) -> str:
    parts = gpu_report.sections(style, found.measurements)
    if found.failures:
        parts.append(style.section("What went wrong", "\n".join(f"* {words}" for words in found.failures)))
    return "\n\n".join(parts)


def page(found: Found, picture: str | None) -> str:
    """The documentation's."""
    head = ["# GPU benchmark", f"Written by `{found.command} --write-docs`."]
    head.append("\n".join(f"* {name}: {text}" for name, text in found.card.items()))
    if picture:
        head.append(f"![Speed over length]({picture})")
    return "\n\n".join([*head, body(found, Style(markdown=True))]) + "\n"


def write_docs(found: Found) -> None:
    has_picture = gpu_report.draw(found.measurements, found.card.get("GPU", ""), PICTURE)
    PAGE.write_text(page(found, PICTURE.name if has_picture else None))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few cases, in few rounds: about two minutes")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="groups, or patterns of names, as 'lengths/d128-*'")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, and end")
    parser.add_argument("--platform", choices=("cuda", "cpu"), default="cuda", help="cpu: a trial with small shapes")
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
        sizes = cases.OF_A_GPU if options.platform == "cuda" else cases.OF_A_TRIAL
        print("\n".join(case.name for case in cases.all_cases(sizes)))
        return
    if options.write_docs and options.platform != "cuda":
        sys.exit("--write-docs is for figures of a GPU: a trial has none")
    os.environ["JAX_PLATFORMS"] = "cuda,cpu" if options.platform == "cuda" else "cpu"
    begun = time.perf_counter()
    found = read_json(options.from_json) if options.from_json else run(options)
    print("\n" + body(found, Style(options.markdown)))
    if not options.from_json:
        print(f"\nThis took {time.perf_counter() - begun:.0f} seconds.")
    if options.json:
        write_json(options.json, found)
    if options.write_docs:
        write_docs(found)
    sys.exit(1 if found.failures else 0)


if __name__ == "__main__":
    main()
