"""The tables of a run: what the machine can do, the marks, and each group of cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import cpu_cases as cases
import marks
import table
import timing
from cpu_cases import BLOCKWISE, CORES, DECODE, FEATURES, JAX_NN, ONE_THREAD, ONNX_RUNTIME, OPENVINO, OURS, TINY, TORCH
from measurement import Measurement, Memory, Results

PEERS = (JAX_NN, BLOCKWISE, TORCH, ONNX_RUNTIME, OPENVINO)

TITLES = {
    cases.LENGTHS: "Lengths, on one core",
    cases.HEAD_DIMS: "Other head_dims, on one core",
    cases.GROUPED: "Grouped-query attention, on one core",
    cases.WINDOWS: "Sliding window, on one core",
    CORES: "All cores",
}

# Columns of words, which are aligned at the left.
WORDS = {
    "case", "dtype", "pass", "limit", "outcome", "mark", "where the worst is", "feature", "call under jit",
    "implementation", "remark",
}  # fmt: skip

READING = """\
Medians; quartiles in brackets. FLOPs are counted as 2 T S (D + Dv) for each head forward, 3.5 times that forward and
backward, half when causal, and exactly the visible pairs of a window. *Of peak*: counted FLOPs over time over the peak
measured on the same cores right before each round, of the fastest instruction for the dtype that the machine has; in
parentheses of the one that our kernel works with, where that is another. Under a peer's name: how many times as long as
jax_fa4 it takes in the same round. *Busy*: how much of the cores our process had while jax_fa4 ran; where it is below
95 % on one core, something else ran there and times are too long. -: see below the table.\
"""


@dataclasses.dataclass(frozen=True)
class Style:
    """Plain columns for a terminal, or Markdown."""

    markdown: bool

    def section(self, title: str, *parts: str) -> str:
        """A heading and paragraphs; empty ones are left out."""
        heading = f"## {title}" if self.markdown else f"{title}\n{'=' * len(title)}"
        return "\n\n".join([heading, *(part for part in parts if part)])

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        """Columns under their titles."""
        is_text = [title in WORDS for title in header]
        return table.render(header, rows, is_text=is_text, markdown=self.markdown)


def factor(ratio: timing.Spread | None) -> str:
    return f"{ratio.median:.2f} [{ratio.lower:.2f}, {ratio.upper:.2f}]" if ratio else "-"


def percent(share: timing.Spread) -> str:
    return f"{100 * share.median:.0f} % [{100 * share.lower:.0f}, {100 * share.upper:.0f}]"


def footnotes(found: Sequence[Measurement]) -> str:
    """Why there are dashes."""
    reasons: dict[tuple[str, str], int] = {}
    for one in found:
        for peer, reason in one.absent.items():
            reasons[peer, reason] = reasons.get((peer, reason), 0) + 1
    said = [f"{peer}: {reason} (rows: {count})" for (peer, reason), count in reasons.items()]
    return "-: " + "; ".join(said) + "." if said else ""


def limits(style: Style, peaks: Mapping[str, Mapping[str, float]], reads: Mapping[str, float]) -> str:
    """Of one core and of all: the best rates."""
    names = list(next(iter(peaks.values())))
    header = ["limit", *peaks]
    rows = [[f"{name}, GFLOP/s", *(f"{found[name] / 1e9:.0f}" for found in peaks.values())] for name in names]
    rows.append(["read from memory, GB/s", *(f"{reads[cores] / 1e9:.1f}" for cores in peaks)])
    text = "amx, avx512bf16 and bfmmla multiply bfloat16 and sum in float32; the others are float32 multiply-adds."
    return style.section("Limits of the machine, measured", style.table(header, rows), text)


def verdicts(style: Style, results: Results) -> str:
    judged = marks.judge(results)
    text = (
        "A mark is judged by the worst of the medians of its cases, on one core where nothing else is said. "
        f"{sum(one.loud_moments for one in results.measurements)} times a round waited or a batch was run again, "
        "because something else ran on the cores."
    )
    rows = [verdict.row() for verdict in judged]
    return style.section("Marks", text, style.table(marks.HEADER, rows))


def group(style: Style, title: str, found: Sequence[Measurement]) -> str:
    peers = [name for name in (ONE_THREAD, *PEERS) if any(name in one.case.programs for one in found)]

    def of_peak(one: Measurement) -> str:
        own = f" ({100 * one.share(one.own).median:.0f})" if marks.own_counts(one) else ""
        return percent(one.share()) + own

    header = ["case", "dtype", "pass", "ms", "GFLOP/s", "of peak", *peers, "rounds", "busy"]
    rows = [
        [
            one.case.title, one.case.dtype, one.pass_name, f"{one.median() * 1e3:.2f}",
            f"{one.flops_per_second() / 1e9:.0f}", of_peak(one), *(factor(one.ratio(peer)) for peer in peers),
            str(len(one.seconds[OURS])), f"{100 * one.busy:.0f} %",
        ]
        for one in found
    ]  # fmt: skip
    return style.section(title, style.table(header, rows), footnotes(found))


def decode(style: Style, found: Sequence[Measurement]) -> str:
    peers = [name for name in (ONE_THREAD, *PEERS) if any(name in one.case.programs for one in found)]
    header = ["case", "dtype", "cores", "KV MiB", "ms", "GB/s", "limit GB/s", "of roofline", *peers]
    rows = [
        [
            one.case.title, one.case.dtype, str(one.cores), f"{one.case.key_value_bytes / 2**20:.0f}",
            f"{one.median() * 1e3:.3f}", f"{one.case.key_value_bytes / one.median() / 1e9:.1f}",
            f"{max(one.read) / 1e9:.1f}", percent(one.roofline_share()), *(factor(one.ratio(peer)) for peer in peers),
        ]
        for one in found
    ]  # fmt: skip
    text = (
        "The roofline is the longer of: reading keys and values once, at the rate at which this many bytes are read "
        "again and again (the limit, which for small caches' worth is that of the caches); and the counted FLOPs at "
        "the forward mark's share of the peak. GB/s: bytes of keys and values over time."
    )
    return style.section("Decoding", text, style.table(header, rows), footnotes(found))


def features(style: Style, found: Sequence[Measurement]) -> str:
    """What each costs: time with it over time without, less 1."""
    names = list(dict.fromkeys(name for one in found for name in one.seconds if name != OURS))

    def cost(one: Measurement, name: str) -> str:
        ratio = one.ratio(name)
        if not ratio:
            return "-"
        lower, median, upper = (100 * (value - 1) for value in (ratio.lower, ratio.median, ratio.upper))
        return f"{median:+.0f} % [{lower:+.0f}, {upper:+.0f}]"

    header = ["feature", *(f"{one.case.dtype}, {one.pass_name}" for one in found)]
    rows = [[name, *(cost(one, name) for one in found)] for name in names]
    text = f"Time with the feature over time without ({found[0].case.title}), less 1; every query sees the same keys."
    return style.section("What each feature costs", text, style.table(header, rows), footnotes(found))


def tiny(style: Style, found: Sequence[Measurement]) -> str:
    header = ["call under jit", "cores", "jax_fa4 us", "x + 1 us"]
    rows = [
        [one.case.title, str(one.cores), *(f"{one.median(name) * 1e6:.2f}" for name in (OURS, "x + 1"))]
        for one in found
    ]
    return style.section("A tiny call, from Python", style.table(header, rows))


def memory(style: Style, found: Sequence[Memory]) -> str:
    header = ["implementation", "N", "growth MiB", "factor", "remark"]
    rows = [
        [one.program, str(one.length), f"{one.grown / 2**20:.0f}" if one.grown else "-",
         f"{one.factor:.1f}" if one.grown else "-", one.why_not]
        for one in found
    ]  # fmt: skip
    text = (
        f"Peak growth of a process beyond its inputs in forward + backward, float32, {found[0].heads} heads of "
        f"{found[0].head_dim}, full, output and gradients included. Factor: in B N (T + S) H float32 numbers."
    )
    return style.section("Memory", text, style.table(header, rows))


def sections(style: Style, results: Results) -> list[str]:
    """Those that something was measured for."""
    special: dict[str, Callable[[Style, Sequence[Measurement]], str]] = {FEATURES: features, DECODE: decode, TINY: tiny}
    written = [verdicts(style, results), READING]
    for name, title in TITLES.items():
        if found := results.of_group(name):
            written.append(group(style, title, found))
    for name, write in special.items():
        if found := results.of_group(name):
            written.append(write(style, found))
    if results.memory:
        written.append(memory(style, results.memory))
    return written
