"""The machine in words, and which of its cores a process runs on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import peers
from cpu_cases import BLOCKWISE, JAX_NN

from jax_fa4 import extension

MKL_REMARK = (
    "torch's MKL does not use AVX-512 on AMD processors: its float32 products run at the speed of AVX2 there. "
    "Figures are of torch as it is installed."
)


def all_cores() -> list[int]:
    """Those that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


@contextlib.contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """What is started within runs on these cores only, from its first instruction on, if the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processor() -> str:
    """Its name, and its numbers, as the names in virtual machines say little."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or "unknown processor"
    first = cpuinfo.read_text().split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in pairs}
    name = fields.get("model name", "unknown processor")
    numbers = [f"{word} {fields[word]}" for word in ("vendor_id", "cpu family", "model") if word in fields]
    return f"{name} ({', '.join(numbers)})"


def describe() -> dict[str, str]:
    """Lines for the head of a report."""
    cores = all_cores()
    pinning = "" if hasattr(os, "sched_setaffinity") else "; not pinned, as this system has no call for it"
    several = "" if len(cores) > 1 else ", so nothing is measured on several"
    wanted = os.environ.get("JAX_FA4_CPU_ISA")
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax_fa4", "jax", "jaxlib", "numpy")]
    others = [peer for peer in peers.PACKAGES if peer not in (JAX_NN, BLOCKWISE)]
    return {
        "machine": f"{processor()}, {platform.machine()}, {platform.system()}",
        "cores": f"{len(cores)}{several}; where it is one: number {cores[-1]}{pinning}",
        "our kernels": f"{wanted} (JAX_FA4_CPU_ISA)" if wanted else f"best of {extension.cpu_instruction_sets()}",
        "load average": f"{load} before the first run",
        "versions": ", ".join([*versions, f"Python {platform.python_version()}"]),
        **{peer: peers.missing(peer) or peers.versions(peer) for peer in others},
        "remark": MKL_REMARK,
    }
