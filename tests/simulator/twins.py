"""Checks in twins: a kernel that is right, and the same without one statement, of which there is exactly one report.

Comments in the text mark lines: `// missing` is the one that the wrong twin lacks (or has something else instead of),
and `// first` and `// second` are those that the report names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kernel_text import SCHEDULES, schedule_name

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Twin:
    """A kernel and what is reported when its marked line is missing.

    instead: what stands on that line then. arguments: made anew for each launch. golden: the report's text is pinned,
    in a file of this twin's name. order_matters: only the eager schedule must find it.
    """

    name: str
    text: str
    kind: str
    title: str
    instead: str = ""
    launch: Mapping[str, Any] = field(default_factory=dict)
    arguments: Callable[[], list[Any]] = list
    golden: bool = False
    order_matters: bool = False

    @property
    def wrong(self) -> str:
        """The text without the marked line."""
        text, count = re.subn(r"^.*// missing", f"{self.instead}  // missing", self.text, flags=re.MULTILINE)
        assert count == 1, f"{count} lines are marked as missing"
        return text

    def line(self, mark: str) -> int:
        """The line that the comment marks, or 0."""
        lines = [n for n, line in enumerate(self.wrong.split("\n"), 1) if re.search(rf"//.*\b{mark}\b", line)]
        assert len(lines) < 2, f"several lines are marked {mark}"
        return lines[0] if lines else 0

    def reports(self, simulate: Callable[..., Any], text: str, options: Mapping[str, Any]) -> list[Any]:
        """Of one launch."""
        result = simulate(text, arguments=self.arguments(), raise_on_report=False, **self.launch, **options)
        reports: list[Any] = result.reports
        return reports

    def check(self, simulate: Callable[..., Any], options: Mapping[str, Any]) -> None:
        """The right twin is clean under every schedule; the wrong one gives, eagerly, exactly this report."""
        found = self.reports(simulate, self.text, options)
        assert not found, "\n\n".join(report.text for report in found)
        found = self.reports(simulate, self.wrong, options)
        texts = "\n\n".join(report.text for report in found)
        if options["schedule"] != "eager":
            assert found or self.order_matters
            return
        assert [(report.kind, report.title) for report in found] == [(self.kind, self.title)], texts
        (report,) = found
        assert (report.first.line, report.second.line) == (self.line("first"), self.line("second")), texts
        if self.golden:
            self._compare(report.text)

    def _compare(self, text: str) -> None:
        file = GOLDEN / f"{self.name}.txt"
        if os.environ.get("SIMULATOR_WRITE_GOLDEN"):
            file.write_text(text)
        assert text == file.read_text()


def every_schedule(twins: list[Twin]) -> Any:
    """Marks a test that takes a twin and the options of a schedule."""
    pairs = [(twin, options) for twin in twins for options in SCHEDULES]
    names = [f"{twin.name}-{schedule_name(options)}" for twin, options in pairs]
    return pytest.mark.parametrize(("twin", "options"), pairs, ids=names)
