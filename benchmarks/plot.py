"""Speed over length as a picture, one panel for each pass and dtype."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpu_cases import BOTH, CAUSAL, DTYPES, EVERYONE, FORWARD, FULL, LENGTHS
from measurement import Measurement, Results

HEAD_DIM = 64
LINES = {FULL: "-", CAUSAL: "--"}


def panel(axes: Any, found: Sequence[Measurement]) -> None:
    for index, program in enumerate(EVERYONE):
        for mask, line in LINES.items():
            points = [
                (one.case.queries, one.flops_per_second(program) / 1e9)
                for one in sorted(found, key=lambda one: one.case.queries)
                if one.case.mask == mask and program in one.seconds
            ]
            if points:
                label = program if mask == FULL else None
                axes.plot(*zip(*points, strict=True), line, color=f"C{index}", marker=".", label=label)
    for name in found[0].peaks:
        peak = max(max(one.peaks[name]) for one in found) / 1e9
        axes.axhline(peak, color="0.6", linewidth=0.8)
        axes.annotate(f"peak, {name}", (0.01, peak), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lengths = sorted({one.case.queries for one in found})
    axes.set_xticks(lengths, [str(length) for length in lengths], fontsize=8)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set_title(f"{found[0].pass_name}, {found[0].case.dtype}", fontsize=10)
    axes.set_ylabel("counted GFLOP/s")


def draw(results: Results, machine: str, path: Path) -> bool:
    """Writes the picture, if there are lengths to draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = [one for one in results.of_group(LENGTHS) if one.case.head_dim == HEAD_DIM]
    if not found:
        return False
    figure, grid = plt.subplots(2, 2, figsize=(12, 9), layout="constrained")
    for row, pass_name in zip(grid, (FORWARD, BOTH), strict=True):
        for axes, dtype in zip(row, DTYPES, strict=True):
            shown = [one for one in found if (one.pass_name, one.case.dtype) == (pass_name, dtype)]
            if shown:
                panel(axes, shown)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(EVERYONE), fontsize=9)
    title = f"Attention on one core, head_dim {HEAD_DIM}: speed over length; solid full, dashed causal"
    figure.suptitle(f"{title}\n{machine}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True
