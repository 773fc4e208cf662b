"""What was executed in this process: rows of the instruction table, and lines of kernels by name."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _simulator
from ._simulator import Kernel

single_instruction = (
    "single_instruction"  # the kernel around one: only its rows are of interest, and not its own frame's
)


def by_line(kernel: Kernel, executed: NDArray[np.uint64]) -> dict[int, int]:
    """Warp-instructions of each line that has any."""
    lines: dict[int, int] = {}
    for line, count in zip(kernel.lines.tolist(), executed.tolist(), strict=True):
        lines[line] = lines.get(line, 0) + count
    return lines


class Coverage:
    """Rows and lines executed so far. As data it is JSON, which merges with that of other processes."""

    def __init__(self) -> None:
        self.rows: set[int] = set()
        self._kernels: dict[str, dict[str, Any]] = {}

    def add(self, kernel: Kernel, executed: NDArray[np.uint64], lines: range | None = None) -> None:
        """Counts one launch; `lines` are those whose rows count."""
        ran = executed > 0
        if lines is not None:
            ran &= (kernel.lines >= lines.start) & (kernel.lines < lines.stop)
        self.rows.update(np.unique(kernel.rows[ran]).tolist())
        if kernel.name == single_instruction:
            return
        statements = kernel.text
        key = f"{kernel.name} {hashlib.sha256(chr(10).join(statements).encode()).hexdigest()[:8]}"
        known = self._kernels.get(key)
        if known is None:
            text = [
                [int(line), statement, source]
                for line, statement, source in zip(kernel.lines.tolist(), statements, kernel.sources, strict=True)
            ]
            known = self._kernels[key] = {"file": kernel.file, "statements": text, "executed": [0] * len(statements)}
        known["executed"] = (np.asarray(known["executed"], np.uint64) + executed).tolist()

    def as_data(self) -> dict[str, Any]:
        """Rows by number; for each kernel its statements (line, text, source) and how often each was executed."""
        return {"rows": sorted(self.rows), "kernels": self._kernels}

    def merge(self, data: dict[str, Any]) -> None:
        """Adds what `as_data` of another process returned."""
        self.rows.update(data["rows"])
        for key, kernel in data["kernels"].items():
            known = self._kernels.setdefault(key, {**kernel, "executed": [0] * len(kernel["executed"])})
            known["executed"] = [a + b for a, b in zip(known["executed"], kernel["executed"], strict=True)]

    def rows_never_executed(self) -> list[str]:
        """Syntax of the table's rows that nothing has executed."""
        return [syntax for row, syntax in enumerate(_simulator.rows()) if row not in self.rows]


process = Coverage()


def record(kernel: Kernel, executed: NDArray[np.uint64], lines: range | None = None) -> None:
    """Counts a launch of this process; one of `single_instruction` when its lines are given."""
    if kernel.name != single_instruction or lines is not None:
        process.add(kernel, executed, lines)
