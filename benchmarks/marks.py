"""What is wanted of jax_fa4 on a CPU, and whether it was reached.

A mark is judged by the worst of its figures, each a median: what a mark says holds for every case it is about.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable

from cpu_cases import (
    BLOCKWISE,
    BOTH,
    CAUSAL,
    CORES,
    DECODE,
    DTYPES,
    FEATURES,
    FORWARD,
    FULL,
    HEAD_DIMS,
    JAX_NN,
    ONE_THREAD,
    ONNX_RUNTIME,
    OPENVINO,
    OURS,
    TINY,
    TORCH,
    WINDOWS,
)
from features import SOFT_CAP
from measurement import FORWARD_MARK, Measurement, Results

PASSES, MASKS = (FORWARD, BOTH), (FULL, CAUSAL)


@dataclasses.dataclass(frozen=True)
class Figure:
    """What one case has to say about a mark."""

    value: float
    where: str


@dataclasses.dataclass(frozen=True)
class Mark:
    """What is wanted: each of the figures at least, or at most, this much."""

    text: str
    wanted: float
    figures: Callable[[Results], Iterable[Figure]]
    unit: str = "%"
    at_most: bool = False

    def written(self, value: float) -> str:
        """The value with its unit: shares in percent."""
        return f"{100 * value:.0f} %" if self.unit == "%" else f"{value:.2f} {self.unit}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A mark and what was measured."""

    mark: Mark
    figures: tuple[Figure, ...]

    @property
    def worst(self) -> Figure:
        """The least, or the greatest where a mark is an upper limit."""
        return (max if self.mark.at_most else min)(self.figures, key=lambda figure: figure.value)

    @property
    def outcome(self) -> str:
        """In one word, or two."""
        if not self.figures:
            return "NOT MEASURED"
        worst, wanted = self.worst.value, self.mark.wanted
        return "REACHED" if (worst <= wanted if self.mark.at_most else worst >= wanted) else "MISSED"

    def row(self) -> list[str]:
        """As HEADER says."""
        wanted = f"{'<=' if self.mark.at_most else '>='} {self.mark.written(self.mark.wanted)}"
        if not self.figures:
            return [self.outcome, self.mark.text, wanted, "-", "-", "-"]
        worst, values = self.worst, sorted(figure.value for figure in self.figures)
        reached = sum(Verdict(self.mark, (figure,)).outcome == "REACHED" for figure in self.figures)
        reached_of = f"{reached} of {len(values)}; {self.mark.written(values[len(values) // 2])}"
        return [self.outcome, self.mark.text, wanted, self.mark.written(worst.value), reached_of, worst.where]


HEADER = ("outcome", "mark", "wanted", "worst", "cases that reach it; middle", "where the worst is")


def where(found: Measurement, *, says_pass: bool = True) -> str:
    said = [found.case.dtype, *([found.pass_name] if says_pass else []), found.case.title]
    return ", ".join(said)


def cores_of(found: Measurement) -> str:
    return f"{found.cores} core{'s' if found.cores > 1 else ''}"


def own_counts(found: Measurement) -> bool:
    """Whether our kernel works with another instruction set than the fastest, one that was measured."""
    return found.own != found.fastest and found.own in found.peaks


def shares(results: Results, pass_name: str, dtype: str, mask: str) -> Iterable[Figure]:
    """Of the measured peak of the fastest instruction for the dtype; and of that the kernel works with, if another."""
    for found in results.marked(pass_name, dtype, mask):
        own = f" ({100 * found.share(found.own).median:.0f} % of {found.own})" if own_counts(found) else ""
        yield Figure(found.share().median, found.case.title + own)


def ratios(
    results: Results, peer: str, pass_name: str, dtypes: Iterable[str], masks: Iterable[str], least: int = 2048
) -> Iterable[Figure]:
    for mask, dtype in itertools.product(masks, dtypes):
        for found in results.marked(pass_name, dtype, mask, least):
            ratio = found.ratio(peer)
            if ratio:
                yield Figure(ratio.median, where(found))


def two_cores(results: Results) -> Iterable[Figure]:
    for found in results.of_group(CORES):
        ratio = found.ratio(ONE_THREAD)
        if found.cores == 2 and ratio:
            yield Figure(ratio.median, where(found))


def beside(
    results: Results, found: Measurement, length: int, head_dims: tuple[int, ...], mask: str
) -> Iterable[Figure]:
    """Share of the peak over that of the same pass and dtype at another length, the better of some head_dims."""
    others = [
        other.share().median
        for other in results.marked(found.pass_name, found.case.dtype, mask)
        if other.case.queries == length and other.case.head_dim in head_dims
    ]
    if others:
        yield Figure(found.share().median / max(others), where(found))


def short(results: Results) -> Iterable[Figure]:
    for dtype, pass_name in itertools.product(DTYPES, PASSES):
        for found in results.marked(pass_name, dtype, CAUSAL, least=512):
            if found.case.queries == 512:
                yield from beside(results, found, 4096, (found.case.head_dim,), CAUSAL)


def windows(results: Results) -> Iterable[Figure]:
    for found in results.of_group(WINDOWS):
        yield from beside(results, found, found.case.queries, (found.case.head_dim,), CAUSAL)


def head_dims(results: Results) -> Iterable[Figure]:
    for found in results.of_group(HEAD_DIMS):
        if found.case.head_dim in (80, 96):
            yield from beside(results, found, found.case.queries, (64, 128), found.case.mask)


def feature_costs(results: Results, *, is_soft_cap: bool) -> Iterable[Figure]:
    for found in results.of_group(FEATURES):
        for name in found.seconds:
            ratio = found.ratio(name)
            if ratio and name != OURS and (name == SOFT_CAP) == is_soft_cap:
                yield Figure(ratio.median - 1, f"{name}, {where(found)}")


def decode(results: Results) -> Iterable[Figure]:
    for found in results.of_group(DECODE):
        if found.read:
            yield Figure(found.roofline_share().median, f"{where(found, says_pass=False)}, {cores_of(found)}")


def tiny(results: Results) -> Iterable[Figure]:
    for found in results.of_group(TINY):
        plain = found.median("x + 1") * 1e6
        yield Figure(found.median() * 1e6, f"{found.case.title}, {cores_of(found)}; x + 1 takes {plain:.1f}")


def memory(results: Results) -> Iterable[Figure]:
    """Growth of twice the length over that of the length: 2 is linear, 4 is quadratic."""
    ours = {found.length: found for found in results.memory if found.program == OURS and found.grown}
    for length, found in ours.items():
        if 2 * length in ours:
            twice = ours[2 * length]
            yield Figure(
                (twice.grown or 0) / (found.grown or 1),
                f"N {twice.length} and {length}; factor {twice.factor:.1f} of B N (T + S) H float32 numbers",
            )


WANTED_SHARES = {
    (FORWARD, "float32"): (FORWARD_MARK["float32"], 0.82), (FORWARD, "bfloat16"): (FORWARD_MARK["bfloat16"], 0.79),
    (BOTH, "float32"): (0.86, 0.82), (BOTH, "bfloat16"): (0.76, 0.72),
}  # fmt: skip
WANTED_OF_TORCH = {
    (FORWARD, "float32"): 2.0, (FORWARD, "bfloat16"): 4.0, (BOTH, "float32"): 2.2, (BOTH, "bfloat16"): 2.8,
}  # fmt: skip
WANTED_OF_BLOCKWISE = {"float32": 1.4, "bfloat16": 2.0}
WANTED_OF_FORWARD_PEERS = {FULL: 1.1, CAUSAL: 2.0}
WANTED_OF_JAX_NN = {FULL: 3.0, CAUSAL: 6.0}


def of_peaks() -> list[Mark]:
    return [
        Mark(
            f"{pass_name}, {dtype}, {mask}: share of one core's peak", wanted,
            functools.partial(shares, pass_name=pass_name, dtype=dtype, mask=mask),
        )
        for (pass_name, dtype), both in WANTED_SHARES.items() for mask, wanted in zip(MASKS, both, strict=True)
    ]  # fmt: skip


def of_peers() -> list[Mark]:
    def mark(
        peer: str, pass_name: str, wanted: float, dtypes: tuple[str, ...], masks: tuple[str, ...], least: int = 2048
    ) -> Mark:
        said = [pass_name, *(dtypes if len(dtypes) == 1 else ()), *(masks if len(masks) == 1 else ())]
        figures = functools.partial(ratios, peer=peer, pass_name=pass_name, dtypes=dtypes, masks=masks, least=least)
        return Mark(f"{', '.join(said)}: times as fast as {peer}", wanted, figures, unit="x")

    marks = [mark(TORCH, pass_name, wanted, (dtype,), MASKS) for (pass_name, dtype), wanted in WANTED_OF_TORCH.items()]
    for peer in (ONNX_RUNTIME, OPENVINO):
        marks += [mark(peer, FORWARD, wanted, DTYPES, (mask,)) for mask, wanted in WANTED_OF_FORWARD_PEERS.items()]
    for pass_name in PASSES:
        marks += [
            mark(JAX_NN, pass_name, wanted, DTYPES, (mask,), least=1024) for mask, wanted in WANTED_OF_JAX_NN.items()
        ]
        marks += [mark(BLOCKWISE, pass_name, wanted, (dtype,), MASKS) for dtype, wanted in WANTED_OF_BLOCKWISE.items()]
    return marks


MARKS = (
    *of_peaks(),
    Mark("two cores: times as fast as one", 1.9, two_cores, unit="x"),
    *of_peers(),
    Mark("N 512, causal: share of the peak, over that of N 4096", 0.75, short),
    Mark("window 512 at N 8192: share of the peak, over causal's", 0.75, windows),
    Mark("soft cap: cost", 0.20, functools.partial(feature_costs, is_soft_cap=True), at_most=True),
    Mark("each other feature: cost", 0.10, functools.partial(feature_costs, is_soft_cap=False), at_most=True),
    Mark("head_dim 80 and 96: share of the peak, over the better of 64 and 128", 0.90, head_dims),
    Mark("decoding: share of the roofline", 0.70, decode),
    Mark("time of a tiny call under jit", 10.0, tiny, unit="us", at_most=True),
    Mark("memory: growth from N 8192 to 16384", 2.2, memory, unit="x", at_most=True),
)  # fmt: skip


def judge(results: Results) -> list[Verdict]:
    return [Verdict(mark, tuple(mark.figures(results))) for mark in MARKS]
