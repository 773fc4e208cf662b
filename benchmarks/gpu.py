"""What the CUDA kernels reach of the card's matrix products, and beside other implementations: `make bench-gpu`.

All programs of a case take turns in one process. `--platform cpu` is a trial without a GPU: small shapes and the CPU's
kernel, to see that everything works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

# Before JAX starts: torch needs memory beside it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import card
import command
import gpu_cases as cases
import gpu_report
from gpu_measurement import Measurement, from_json, measure
from report import Style

PAGE, PICTURE = command.DOCS / "gpu_benchmark.md", command.DOCS / "gpu_benchmark.png"


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
    names = command.select([case.name for case in listed], options.cases or ["*"])
    return [case for case in listed if case.name in names]


def measure_all(options: argparse.Namespace) -> Found:
    """Measures; what was found counts even if a later case fails."""
    import gpu_peers

    sizes = cases.OF_A_GPU if options.platform == "cuda" else cases.OF_A_TRIAL
    trial = ["--platform", options.platform] if options.platform != "cuda" else []
    found = Found(command.command("gpu.py", options, *trial), card.describe(), [], [])
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
                command.write_json(options.json, found)
    return found


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
    return command.page("GPU benchmark", found.command, found.card, picture, body(found, Style(markdown=True)))


def write_docs(found: Found) -> None:
    has_picture = gpu_report.draw(found.measurements, found.card.get("GPU", ""), PICTURE)
    PAGE.write_text(page(found, PICTURE.name if has_picture else None))


def parse_arguments() -> argparse.Namespace:
    parser = command.parser_of(__doc__, "a few cases, in few rounds: about two minutes", "lengths/d128-*", PAGE)
    parser.add_argument("--platform", choices=("cuda", "cpu"), default="cuda", help="cpu: a trial with small shapes")
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
    command.run(options, measure_all, read_json, body, write_docs)


if __name__ == "__main__":
    main()
