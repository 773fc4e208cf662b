"""Collectives of a compiled program, by kind and bytes."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

_BYTES = {"f64": 8, "s64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1}
_KINDS = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")
_INSTRUCTION = re.compile(rf"= (\([^)]*\)|\S+) ({'|'.join(_KINDS)})(?:-start)?\(")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


def collectives(compiled: Any) -> Counter[tuple[str, int]]:
    """How often each (kind, bytes of its result on one device) occurs; tuples count as one entry for each element."""
    found: Counter[tuple[str, int]] = Counter()
    for types, kind in _INSTRUCTION.findall(compiled.as_text()):
        for dtype, extents in _SHAPE.findall(types):
            if dtype in _BYTES:
                found[kind, _BYTES[dtype] * math.prod(int(e) for e in extents.split(",") if e)] += 1
    return found


def collective_bytes(compiled: Any) -> dict[str, int]:
    """Bytes moved by each kind of collective, those of scalars left out (losses are summed too)."""
    total: Counter[str] = Counter()
    for (kind, size), count in collectives(compiled).items():
        if size > 8:
            total[kind] += size * count
    return dict(total)
