"""What the commands of both benchmarks share: their options, cases by name, their page, and how a run ends."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from report import Style

DOCS = Path(__file__).parents[1] / "docs"


class Found(Protocol):
    """What a run found; a dataclass."""

    failures: list[str]


F = TypeVar("F", bound=Found)


def parser_of(description: str | None, quick: str, example: str, page: Path) -> argparse.ArgumentParser:
    """The options of both.

    Args:
      description: the command's docstring.
      quick: what --quick does.
      example: a pattern of names of cases.
      page: which --write-docs writes, and a picture of the same name.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--cases", nargs="+", metavar="CASE", help=f"groups, or patterns of names, as '{example}'")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every time that was measured")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing; report what FILE has")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"also write docs/{page.name} and docs/{page.stem}.png"
    )
    return parser


def select(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that a pattern fits, or whose group it is; ends the command where it fits none."""

    def matches(name: str, pattern: str) -> bool:
        return fnmatch.fnmatchcase(name, pattern) or name.split("/")[0] == pattern

    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            sys.exit(f"--cases {pattern} matches none of:\n" + "\n".join(names))
    return [name for name in names if any(matches(name, pattern) for pattern in patterns)]


def command(script: str, options: argparse.Namespace, *more: str) -> str:
    """Which measures the same again; without where it was told to write."""
    words = ["--quick"] * options.quick + (["--cases", *options.cases] if options.cases else [])
    return shlex.join(["python", f"benchmarks/{script}", *words, *more])


def page(title: str, command: str, facts: Mapping[str, str], picture: str | None, body: str) -> str:
    """The documentation's."""
    parts = [f"# {title}", f"Written by `{command} --write-docs`."]
    parts.append("\n".join(f"* {name}: {text}" for name, text in facts.items()))
    if picture:
        parts.append(f"![Speed over length]({picture})")
    return "\n\n".join([*parts, body]) + "\n"


def write_json(path: Path, found: Any) -> None:
    """Every time that was measured."""
    path.write_text(json.dumps(dataclasses.asdict(found), indent=1) + "\n")


def run(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace], F],
    read_json: Callable[[Path], F],
    body: Callable[[F, Style], str],
    write_docs: Callable[[F], None],
) -> None:
    """Measures or reads, reports as the options say, and ends the command: with 1 where something went wrong."""
    begun = time.perf_counter()
    found = read_json(options.from_json) if options.from_json else measure(options)
    print("\n" + body(found, Style(options.markdown)))
    if not options.from_json:
        print(f"\nThis took {time.perf_counter() - begun:.0f} seconds.")
    if options.json:
        write_json(options.json, found)
    if options.write_docs:
        write_docs(found)
    sys.exit(1 if found.failures else 0)
