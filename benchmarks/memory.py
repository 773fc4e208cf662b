"""Bytes by which a process grows in one forward and backward pass, gradients included: `memory.py PROGRAM LENGTH`.

XLA's plan does not see the workspace of kernels, so what counts is what the operating system says.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import subprocess
import sys
from pathlib import Path

from cpu_cases import BLOCKWISE, BOTH, FULL, JAX_NN, MEMORY, OURS, TORCH, square
from measurement import Memory

HEADS, HEAD_DIM = 2, 64
LENGTHS = {OURS: (8192, 16384), BLOCKWISE: (16384,), TORCH: (16384,), JAX_NN: (16384,)}
SMALL = 512
# jax.nn grew by nearly 7 times its logits where this was tried.
LOGITS_OF_JAX_NN = 8


def kibibytes(file: str, field: str) -> int:
    """Bytes of a line such as `MemAvailable: 123 kB`."""
    lines = Path(file).read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (the most since the last reset) of this process."""
    return kibibytes("/proc/self/status", field)


def reset_peak() -> None:
    """Gives back what has been freed, then lets VmHWM start from what remains."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def growth(program: str, length: int) -> int:
    import jax
    import peers

    def prepared(length: int) -> peers.Program:
        case = square(MEMORY, "float32", length, HEADS, FULL, head_dim=HEAD_DIM)
        return peers.prepare(program, case, BOTH, os.cpu_count() or 1)

    small, large = prepared(SMALL), prepared(length)
    jax.block_until_ready(small.run())
    reset_peak()
    before = resident("VmRSS")
    results = jax.block_until_ready(large.run())
    found = resident("VmHWM") - before
    del results
    return found


def why_not(program: str, length: int) -> str:
    """Says why a figure cannot be had here; empty where it can."""
    import peers

    if platform.libc_ver()[0] != "glibc" or not os.access("/proc/self/clear_refs", os.W_OK):
        return "needs glibc and Linux's /proc/self/clear_refs"
    if program == JAX_NN:
        available = kibibytes("/proc/meminfo", "MemAvailable")
        needed = LOGITS_OF_JAX_NN * 4 * HEADS * length * length
        if needed > available:
            return f"may need {needed / 2**30:.0f} GiB, {available / 2**30:.0f} are free"
    return peers.missing(program) or ""


def measure(program: str, length: int) -> Memory:
    """In a process of its own."""
    reason, grown = why_not(program, length), None
    if not reason:
        # Larger allocations are mapped anew and given back at once: the heap would keep some, and hide growth in them.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        command = [sys.executable, __file__, program, str(length)]
        ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        grown, reason = (int(ended.stdout), "") if ended.returncode == 0 else (None, f"ended with {ended.returncode}")
    return Memory(program, length, HEADS, HEAD_DIM, grown, reason)


def measure_all() -> list[Memory]:
    return [measure(program, length) for program, lengths in LENGTHS.items() for length in lengths]


if __name__ == "__main__":
    print(growth(sys.argv[1], int(sys.argv[2])))
