"""Times jitted jax_fa4.attention on the CPU beside jax.nn.dot_product_attention and the blockwise implementation."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import table
import timing

import jax_fa4
from jax_fa4 import extension

OURS, JAX_NN, BLOCKWISE = "jax_fa4", "jax.nn", "blockwise"
FORWARD, BOTH = "forward", "forward + backward"
CUSTOM_CALLS = {FORWARD: ("jax_fa4_cpu_forward",), BOTH: ("jax_fa4_cpu_forward", "jax_fa4_cpu_backward")}

# What is promised: forward and backward of this case, this many times as fast as jax.nn.
MARK_CASE, MARK_RATIO = "causal", 3.0

DEFAULT_EFFORT = timing.Effort(seconds=3.0, least_rounds=3, most_rounds=30)
MARK_EFFORT = timing.Effort(seconds=12.0, least_rounds=9, most_rounds=50)
QUICK_EFFORT = timing.Effort(seconds=1.0, least_rounds=3, most_rounds=10)
QUICK_CASES = (MARK_CASE, "short")


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of attention: batch 1, as many keys as queries."""

    description: str
    length: int = 2048
    heads: int = 8
    key_value_heads: int = 8
    head_dim: int = 64
    dtype: str = "float32"
    is_causal: bool = True
    local_window_size: tuple[int, int] | None = None
    logits_soft_cap: float | None = None
    has_sinks: bool = False
    segment_ends: tuple[int, ...] = ()

    def implementations(self) -> tuple[str, ...]:
        """Ours first. jax.nn has neither soft cap nor sinks nor segment ids."""
        is_beyond_jax_nn = self.logits_soft_cap or self.has_sinks or self.segment_ends
        return (OURS, BLOCKWISE) if is_beyond_jax_nn else (OURS, JAX_NN, BLOCKWISE)

    def arrays(self) -> tuple[list[Any], dict[str, Any], Any]:
        """Query, key and value; the other operands by name; the cotangent of the output."""
        random = np.random.default_rng(0)

        def normal(*shape: int) -> jax.Array:
            return jnp.asarray(random.standard_normal(shape), self.dtype)

        queries = (1, self.length, self.heads, self.head_dim)
        keys = (1, self.length, self.key_value_heads, self.head_dim)
        others: dict[str, Any] = {}
        if self.has_sinks:
            others["sinks"] = normal(self.heads)
        if self.segment_ends:
            ids = np.searchsorted(self.segment_ends, np.arange(self.length), side="right")[None]
            others["query_segment_ids"] = others["key_value_segment_ids"] = jnp.asarray(ids, jnp.int32)
        return [normal(*queries), normal(*keys), normal(*keys)], others, normal(*queries)


CASES = {
    MARK_CASE: Case("T 2048, causal, float32"),
    "full": Case("T 2048, full, float32", is_causal=False),
    "bfloat16": Case("T 2048, causal, bfloat16", dtype="bfloat16"),
    "gqa": Case("T 2048, causal, 8 heads on 2", key_value_heads=2),
    "short": Case("T 512, causal, float32", length=512),
    "window": Case("T 4096, causal, window 512", length=4096, local_window_size=(512, 0)),
    "head_dim_128": Case("T 2048, causal, head_dim 128", head_dim=128),
    "features": Case(
        "T 2048, causal, soft cap, sinks, segments",
        logits_soft_cap=30.0,
        has_sinks=True,
        segment_ends=(300, 900, 1600),
    ),
}


@dataclasses.dataclass
class Measurement:
    """One pass of one case: seconds of every round by implementation, and bytes of XLA's temporaries."""

    case: str
    pass_name: str
    seconds: dict[str, list[float]]
    temp_bytes: dict[str, int]

    def ratio(self, peer: str) -> timing.Spread | None:
        """How many times as long as ours the peer takes."""
        return timing.paired_ratios(self.seconds[peer], self.seconds[OURS]) if peer in self.seconds else None


def attention(case: Case, implementation: str) -> Callable[..., Any]:
    """Function of query, key, value and a dictionary of the other operands."""
    options: dict[str, Any] = {"is_causal": case.is_causal, "local_window_size": case.local_window_size}
    if implementation == JAX_NN:
        return lambda query, key, value, _: jax.nn.dot_product_attention(
            query, key, value, implementation="xla", **options
        )
    ours = "cpu" if implementation == OURS else implementation
    return lambda query, key, value, others: jax_fa4.attention(
        query, key, value, implementation=ours, logits_soft_cap=case.logits_soft_cap, **options, **others
    )


def compile_pass(case: Case, pass_name: str, implementation: str, arguments: Sequence[Any]) -> Any:
    """The compiled program, known to consist of our custom calls or to have none, as it should."""
    attend = attention(case, implementation)

    def both(query: Any, key: Any, value: Any, others: Any, cotangent: Any) -> Any:
        output, pullback = jax.vjp(lambda *inputs: attend(*inputs, others), query, key, value)
        return output, pullback(cotangent)

    compiled = jax.jit(attend if pass_name == FORWARD else both).lower(*arguments).compile()
    text = compiled.as_text() or ""
    for name in CUSTOM_CALLS[pass_name]:
        assert (name in text) == (implementation == OURS), f"{implementation}: wrong number of calls of {name}"
    return compiled


def assert_agree(case: Case, results: dict[str, Any]) -> None:
    """Asserts that all implementations computed the same thing; how exactly they did is the tests' business.

    In the Euclidean norm: sums of at most `length` float32 terms in another order, then a few roundings to the dtype.
    """
    tolerance = case.length**0.5 * float(jnp.finfo(jnp.float32).eps) + 2 * float(jnp.finfo(case.dtype).eps)
    for peer, expected in results.items():
        for actual, wanted in zip(jax.tree.leaves(results[OURS]), jax.tree.leaves(expected), strict=True):
            ours, theirs = (np.asarray(array, np.float64) for array in (actual, wanted))
            difference = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
            assert difference <= tolerance, f"{case}: {OURS} is {difference:.2g} from {peer}, allowed {tolerance:.2g}"


def measure(name: str, pass_name: str, effort: timing.Effort) -> Measurement:
    case = CASES[name]
    inputs, others, cotangent = case.arrays()
    arguments = (*inputs, others) if pass_name == FORWARD else (*inputs, others, cotangent)
    compiled = {peer: compile_pass(case, pass_name, peer, arguments) for peer in case.implementations()}
    assert_agree(case, {peer: program(*arguments) for peer, program in compiled.items()})
    programs = {peer: (lambda program=program: program(*arguments)) for peer, program in compiled.items()}
    seconds = timing.interleaved(programs, effort)
    temp = {peer: program.memory_analysis().temp_size_in_bytes for peer, program in compiled.items()}
    return Measurement(name, pass_name, seconds, temp)


def describe_machine() -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    model = models[0].split(":", 1)[1].strip() if models else platform.processor() or "unknown CPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads, instruction_set = os.environ.get("JAX_FA4_CPU_THREADS"), os.environ.get("JAX_FA4_CPU_ISA")
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "machine": f"{model}, {platform.machine()}, {platform.system()}",
        "threads": f"{cores} (one per core)" + (f"; jax_fa4: {threads} (JAX_FA4_CPU_THREADS)" if threads else ""),
        "instruction set": instruction_set or extension.cpu_instruction_sets().split(",")[0],
        "load average": f"{load} before the first run",
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "jax_fa4"))
        + f", Python {platform.python_version()}",
    }


def report(measurements: Sequence[Measurement], *, markdown: bool) -> str:
    def milliseconds(measurement: Measurement, peer: str) -> str:
        seconds = measurement.seconds.get(peer)
        return f"{timing.spread(seconds).median * 1e3:.1f}" if seconds else "-"

    def ratio(measurement: Measurement, peer: str) -> str:
        found = measurement.ratio(peer)
        return f"{found.median:.2f} [{found.lower:.2f}, {found.upper:.2f}]" if found else "-"

    def mebibytes(measurement: Measurement, peer: str) -> str:
        is_asked = measurement.pass_name == BOTH and peer in measurement.temp_bytes
        return f"{measurement.temp_bytes[peer] / 2**20:.1f}" if is_asked else "-"

    everyone, peers = (OURS, JAX_NN, BLOCKWISE), (JAX_NN, BLOCKWISE)
    header = ["case", "pass", "rounds", *(f"{who} ms" for who in everyone), *(f"{peer} / {OURS}" for peer in peers)]
    header += [f"{who} temp MiB" for who in everyone]
    rows = [
        [
            CASES[measurement.case].description,
            measurement.pass_name,
            str(len(measurement.seconds[OURS])),
            *(milliseconds(measurement, who) for who in everyone),
            *(ratio(measurement, peer) for peer in peers),
            *(mebibytes(measurement, who) for who in everyone),
        ]
        for measurement in measurements
    ]
    return table.render(header, rows, is_text=[True, True] + [False] * (len(header) - 2), markdown=markdown)


def verdict(measurements: Sequence[Measurement]) -> str:
    """PASS or MISSED for the mark, by the median of the ratios."""
    name = f"mark ({CASES[MARK_CASE].description}, {BOTH}: {MARK_RATIO:g} times as fast as {JAX_NN})"
    for measurement in measurements:
        ratio = measurement.ratio(JAX_NN)
        if measurement.case == MARK_CASE and measurement.pass_name == BOTH and ratio:
            rounds = len(measurement.seconds[OURS])
            outcome = "PASS" if ratio.median >= MARK_RATIO else "MISSED"
            return f"{name}: {outcome}, {ratio.median:.2f} [{ratio.lower:.2f}, {ratio.upper:.2f}] over {rounds} rounds"
    return f"{name}: not measured"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"few rounds, cases {' and '.join(QUICK_CASES)} only")
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), metavar="CASE", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every time that was measured")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    jax.config.update("jax_platforms", "cpu")
    machine = describe_machine()
    for name, text in machine.items():
        print(f"{name}: {text}", flush=True)
    measurements = []
    for name in options.cases or (QUICK_CASES if options.quick else CASES):
        effort = MARK_EFFORT if name == MARK_CASE else DEFAULT_EFFORT
        for pass_name in (FORWARD, BOTH):
            print(f"measuring {name}, {pass_name}", file=sys.stderr)
            measurements.append(measure(name, pass_name, QUICK_EFFORT if options.quick else effort))
    print(
        "\nBatch 1, 8 heads, head_dim 64 where nothing else is said. Medians of interleaved runs in one process.\n"
        "Ratios: of two runs of the same round, median [quartiles], above 1 where jax_fa4 is faster. On a machine\n"
        "that others use too, only ratios mean something. temp: what XLA plans for temporaries.\n"
    )
    print(report(measurements, markdown=options.markdown))
    print(f"\n{verdict(measurements)}")
    if options.json:
        found = [dataclasses.asdict(measurement) for measurement in measurements]
        options.json.write_text(json.dumps({"machine": machine, "measurements": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
