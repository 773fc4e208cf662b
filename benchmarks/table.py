"""The measurements as a table of aligned columns, which with bars between them is Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def render(header: Sequence[str], rows: Sequence[Sequence[str]], *, is_text: Sequence[bool], markdown: bool) -> str:
    """Lines of a table.

    Args:
      header: column titles.
      rows: cells.
      is_text: by column; text is aligned left, numbers right.
      markdown: with the bars and the rule of a Markdown table.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(cells, widths, is_text, strict=True)
        ]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    rule = [
        "-" * width if text or not markdown else "-" * (width - 1) + ":"
        for width, text in zip(widths, is_text, strict=True)
    ]
    return "\n".join(line(cells) for cells in (header, rule, *rows))
