"""The tables and the picture of a run on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gpu_cases as cases
from cpu_cases import CAUSAL, FULL, OURS
from gpu_measurement import Measurement
from marks import HEADER as MARKS_HEADER
from marks import Figure, Mark, Verdict
from report import Style, factor, footnotes, percent
from timing import spread

TITLES = {
    cases.LENGTHS: "As many heads of keys as of queries",
    cases.GROUPED: "Grouped-query attention: four query heads on each head of keys",
    cases.WINDOWS: "Sliding window",
}

READING = """\
Forward pass, bfloat16, medians of rounds in which all programs take turns; quartiles in brackets. Batch times length is
the same everywhere. FLOPs are counted as 4 T S D for each head, half when causal, and exactly the visible pairs of a
window. *Of matmul*: counted FLOPs over time over the rate of a large bfloat16 `jnp.matmul` right before each round.
Under a peer's name: how many times as long as jax_fa4 it takes in the same round. Calls are enqueued one after the
other and waited for once; *host*: the part of jax_fa4's time in which the host was enqueuing, near 100 % of which the
host, not the GPU, is measured. -: see below the table.\
"""


def present(found: Sequence[Measurement]) -> list[str]:
    """Peers that have a figure anywhere."""
    return [peer for peer in cases.PEERS if any(peer in one.seconds for one in found)]


def absent(found: Sequence[Measurement]) -> str:
    """Peers that have none at all, with their reasons, a line each."""
    lines = []
    for peer in cases.PEERS:
        reasons = list(dict.fromkeys(one.absent[peer] for one in found if peer in one.absent))
        if not any(peer in one.seconds for one in found):
            lines.append(f"* {peer}: {'; '.join(reasons)}")
    return "\n".join(lines)


def group(style: Style, title: str, found: Sequence[Measurement]) -> str:
    """The table of a group."""
    peers = present(found)
    header = ["case", "ms", "TFLOP/s", "of matmul", *peers, "host", "rounds"]
    rows = [
        [
            one.case.title, f"{one.median() * 1e3:.3f}", f"{one.flops_per_second() / 1e12:.0f}", percent(one.share()),
            *(factor(one.ratio(peer)) for peer in peers), f"{100 * one.host[OURS]:.0f} %", str(len(one.seconds[OURS])),
        ]
        for one in found
    ]  # fmt: skip
    kept = [
        Measurement(**{**vars(one), "absent": {p: r for p, r in one.absent.items() if p in peers}}) for one in found
    ]
    return style.section(title, style.table(header, rows), footnotes(kept))  # type: ignore[arg-type]


def memory(style: Style, found: Sequence[Measurement]) -> str:
    """Peak memory beyond operands and result."""
    programs = [name for name in cases.EVERYONE if any(name in one.temporary for one in found)]
    rows = [
        [one.case.title, *(f"{one.temporary[name] / 2**20:.1f}" if name in one.temporary else "-" for name in programs)]
        for one in found
    ]
    text = "MiB beyond operands and result: of programs of JAX as XLA plans them, of torch as its allocator counted."
    return style.section("Peak memory", text, style.table(["case", *programs], rows))


def of_cudnn(found: Any, lengths: range) -> Iterable[Figure]:
    """How many times as fast as cuDNN, of head_dim 128 at these lengths."""
    for one in found:
        ratio = one.ratio(cases.JAX_CUDNN)
        if one.case.group == cases.LENGTHS and one.case.head_dim == 128 and one.case.length in lengths and ratio:
            yield Figure(ratio.median, one.case.title)


LONG, SHORT = (functools.partial(of_cudnn, lengths=lengths) for lengths in (range(4096, 1 << 30), range(512, 1025)))
MARKS = (
    Mark("head_dim 128, T >= 4096: times as fast as cuDNN", 1.0, LONG, unit="x"),
    Mark("the same: the goal", 1.1, LONG, unit="x"),
    Mark("head_dim 128, T 512 and 1024: times as fast as cuDNN", 1.0, SHORT, unit="x"),
)


def verdicts(style: Style, found: Any) -> str:
    rows = [Verdict(mark, tuple(mark.figures(found))).row() for mark in MARKS]
    text = "A mark is judged by the worst of the medians of its cases."
    return style.section("Marks", text, style.table(MARKS_HEADER, rows))


def sections(style: Style, found: Sequence[Measurement]) -> list[str]:
    """All that something was measured for."""
    if not found:
        return []
    peaks = spread([peak / 1e12 for one in found for peak in one.peaks])
    rate = f"{peaks.median:.0f} TFLOP/s; quartiles {peaks.lower:.0f}, {peaks.upper:.0f}"
    written = [f"The rate of the card's matrix products: {rate}.", verdicts(style, found), READING]
    if text := absent(found):
        written.append(style.section("Peers that are absent", text))
    for name, title in TITLES.items():
        if of_group := [one for one in found if one.case.group == name]:
            written.append(group(style, title, of_group))
    return [*written, memory(style, found)]


def panel(axes: Any, found: Sequence[Measurement]) -> None:
    found = sorted(found, key=lambda one: one.case.length)
    for index, program in enumerate(cases.EVERYONE):
        points = [(one.case.length, one.flops_per_second(program) / 1e12) for one in found if program in one.seconds]
        if points:
            width = 2.2 if program == OURS else 1.2
            axes.plot(*zip(*points, strict=True), marker=".", color=f"C{index}", linewidth=width, label=program)
    axes.axhline(spread([peak / 1e12 for one in found for peak in one.peaks]).median, color="0.6", linewidth=0.8)
    lengths = [one.case.length for one in found]
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths], fontsize=8)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.set_title(f"head_dim {found[0].case.head_dim}, {found[0].case.mask}", fontsize=10)
    axes.set_ylabel("counted TFLOP/s")


def draw(found: Sequence[Measurement], card: str, path: Path) -> bool:
    """Writes the picture, if there are lengths to draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [one for one in found if one.case.group == cases.LENGTHS]
    dims = sorted({one.case.head_dim for one in shown})
    if not dims:
        return False
    figure, grid = plt.subplots(2, len(dims), figsize=(5 * len(dims), 8), layout="constrained", squeeze=False)
    handles: dict[str, Any] = {}
    for row, mask in zip(grid, (FULL, CAUSAL), strict=True):
        for axes, head_dim in zip(row, dims, strict=True):
            of_panel = [one for one in shown if (one.case.head_dim, one.case.mask) == (head_dim, mask)]
            if of_panel:
                panel(axes, of_panel)
                handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=9)
    figure.suptitle(
        f"Attention forward, bfloat16: speed over length; grey: a large matrix product\n{card}", fontsize=10
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True
