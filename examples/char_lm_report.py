"""How the training example tells what it measured: headings, a progress bar, tables and the plot of the loss curves."""

from __future__ import annotations

import pathlib
import shutil
import sys
import time
from collections.abc import Sequence

import numpy as np


def heading(text: str) -> None:
    """A blank line and a title, bold on a terminal."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns: the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in (columns, *rows)) for i in range(len(columns))]
    for line in (columns, ["-" * width for width in widths], *rows):
        first, *others = line
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print("  " + "   ".join((first.ljust(widths[0]), *cells)))
    sys.stdout.flush()


def megabytes(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


class Progress:
    """A bar that redraws itself on a terminal; elsewhere a line now and then."""

    WIDTH = 16
    LINES = 8  # how many lines a run leaves where there is no terminal

    def __init__(self, total: int):
        self.total = total
        self.start = time.perf_counter()
        self.live = sys.stdout.isatty()
        self.stride = max(1, total // self.LINES)
        fancy = "utf" in (sys.stdout.encoding or "").lower()
        self.full, self.rest = ("━", "╌") if fancy else ("#", ".")

    def update(self, done: int, text: str) -> None:
        """Shows that `done` steps are behind us, and a word on the last one."""
        last = done == self.total
        if not (self.live or last or done % self.stride == 0):
            return
        seconds_left = (time.perf_counter() - self.start) / done * (self.total - done)
        filled = self.WIDTH * done // self.total
        bar = self.full * filled + self.rest * (self.WIDTH - filled)
        line = f"  {bar} {done:>{len(str(self.total))}}/{self.total}   {text}   {seconds_left:3.0f} s left"
        if self.live:
            # A line that wraps could not be overwritten.
            line = line[: shutil.get_terminal_size().columns - 1]
            print(f"\r{line}\033[K", end="\n" if last else "", flush=True)
        else:
            print(line, flush=True)


def plot_losses(
    path: pathlib.Path,
    train: dict[str, Sequence[float]],
    validation: dict[str, Sequence[tuple[int, float]]],
) -> None:
    """Loss curves on top of each other, and below them how far they are apart. The first name is ours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ours, theirs = train
    steps = np.arange(1, len(train[ours]) + 1)
    figure, (curves, gap) = pyplot.subplots(
        2, 1, figsize=(9, 7), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    styles = {
        ours: {"color": "#2a78b5", "linestyle": "-", "linewidth": 3.0},
        theirs: {"color": "#111111", "linestyle": (0, (4, 3)), "linewidth": 1.2},
    }
    markers = {
        ours: {"color": "#e07b1f", "marker": "o", "markersize": 9},
        theirs: {"color": "#111111", "marker": "x", "markersize": 6},
    }
    for name, losses in train.items():
        curves.plot(steps, losses, label=f"training, {name}", **styles[name])
    for name, points in validation.items():
        curves.plot(*zip(*points, strict=True), linestyle="none", label=f"validation, {name}", **markers[name])
    curves.set_ylabel("loss (nats per byte)")
    curves.set_title("The same model, seed and batches; only the attention function differs")
    curves.grid(alpha=0.3)
    curves.legend(frameon=False)

    difference = np.abs(np.subtract(train[ours], train[theirs]))
    gap.plot(steps, difference, color="#a02c2c", linewidth=1.2)
    gap.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    gap.set_ylabel("|difference|\nin training loss")
    gap.set_xlabel("step")
    gap.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
