"""What the machine can do, measured: compiles limits.cc into a folder and reads what it prints."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("limits.cc")
# Contracting is what lets the compiler make multiply-adds of the text; ISO C++ leaves it off.
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=fast", "-pthread")

# Instructions that multiply bfloat16 and sum in float32; all others work in float32.
BFLOAT16_ONLY = frozenset({"amx", "avx512bf16", "bfmmla"})


def compile_program(folder: Path) -> Path:
    """Builds the measuring program with $CXX, or c++."""
    program = folder / "limits"
    subprocess.run([*shlex.split(os.environ.get("CXX", "c++")), *FLAGS, str(SOURCE), "-o", str(program)], check=True)
    return program


@dataclasses.dataclass(frozen=True)
class Rate:
    """A second's work: of the best batch, and of all batches, which what else runs on the cores takes part of."""

    best: float
    mean: float


class Limits:
    """The program, on the cores that this process may use."""

    def __init__(self, program: Path, threads: int) -> None:
        self.program = program
        self.threads = threads
        self.instruction_sets = tuple(subprocess.check_output([str(program)], text=True).split())

    def measure(self, what: Iterable[str], seconds: float) -> dict[str, Rate]:
        """Rates of instruction sets (operations a second), or of "read:BYTES" (bytes a second)."""
        command = [str(self.program), str(self.threads), str(seconds), *what]
        found = json.loads(subprocess.check_output(command, text=True))
        return {name: Rate(rate["best"], rate["mean"]) for name, rate in found.items()}

    def peaks(self, seconds: float) -> dict[str, float]:
        """Operations a second of each instruction set."""
        return {name: rate.best for name, rate in self.measure(self.instruction_sets, seconds).items()}

    def read(self, size: int, seconds: float) -> float:
        """Bytes a second when `size` bytes are read again and again."""
        what = f"read:{size}"
        return self.measure([what], seconds)[what].best


def fastest(peaks: Mapping[str, float], dtype: str) -> str:
    """The instruction set that multiplies numbers of this dtype fastest."""
    usable = [name for name in peaks if dtype == "bfloat16" or name not in BFLOAT16_ONLY]
    return max(usable, key=lambda name: peaks[name])


def works_with(kernels: str, dtype: str) -> str:
    """The instruction set whose multiply-adds our kernels of that name use for a dtype."""
    return "avx512" if dtype != "bfloat16" and kernels in ("amx", "avx512bf16") else kernels
