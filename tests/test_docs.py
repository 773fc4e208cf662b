"""The Python blocks of the documentation run: each page's in one namespace, in order."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pages() -> list[pathlib.Path]:
    """The pages that have code."""
    return [page for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))) if BLOCK.search(page.read_text())]


def of_a_test(page: pathlib.Path) -> Any:
    """All but the first page that users read are left to the whole run."""
    return pytest.param(page, id=page.name, marks=() if page.name == "README.md" else pytest.mark.slow)


@pytest.mark.parametrize("page", [of_a_test(page) for page in pages()])
def test_code_of_a_page_runs(page: pathlib.Path) -> None:
    text = page.read_text()
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        # Empty lines before the block give tracebacks the line numbers of the page.
        lines_before = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_before + block[1], str(page), "exec"), namespace)


def test_the_manual_is_among_the_pages() -> None:
    """A pattern that finds no code would let every page pass."""
    assert ROOT / "docs" / "api.md" in pages()
