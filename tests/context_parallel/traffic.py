"""Collectives of a compiled program by kind and bytes, those in loops as often as the loops turn."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import hlo

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class _Text:
    """What hlo.collectives reads."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def as_text(self) -> str:
        return "\n".join(self.lines)


def bytes_by_kind(compiled: Any) -> dict[str, int]:
    """Bytes of the results on one device."""
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in compiled.as_text().splitlines():
        if not line.startswith(" ") and (start := _COMPUTATION.match(line)):
            name = start[1]
            entry = name if line.startswith("ENTRY") else entry
            computations[name] = []
        elif name:
            computations[name].append(line)

    def total(name: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for (kind, size), count in hlo.collectives(_Text(computations[name])).items():
            found[kind] += size * count
        for line in computations[name]:
            if body := _BODY.search(line):
                turns = _TURNS.search(line)
                assert turns, f"a loop whose turns are not known: {line}"
                for kind, size in total(body[1]).items():
                    found[kind] += size * int(turns[1])
            for called in _CALLED.findall(line):
                found += total(called)
        return found

    return dict(total(entry))
