"""The GPU in words: what nvidia-smi says of it before and while something runs, and the versions of what runs."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FIELDS = {
    "name": "GPU", "driver_version": "driver", "memory.total": "memory", "power.limit": "power limit",
    "clocks.max.sm": "highest SM clock", "clocks.max.mem": "highest memory clock",
}  # fmt: skip
SAMPLED = {
    "clocks.sm": "SM clock", "clocks.mem": "memory clock", "power.draw": "power", "temperature.gpu": "degrees C",
}  # fmt: skip
PACKAGES = (
    "jax_fa4", "jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13",
    "torch", "triton",
)  # fmt: skip


def asked(fields: Any, *options: str) -> list[str]:
    """A query of nvidia-smi for the first GPU."""
    return ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", *options]


def describe() -> dict[str, str]:
    """Lines for the head of a report."""
    found = {}
    if shutil.which("nvidia-smi"):
        line = subprocess.run(asked(FIELDS), capture_output=True, text=True).stdout.strip()
        found = dict(zip(FIELDS.values(), line.split(", "), strict=False))
    else:
        found["GPU"] = "nvidia-smi is not here"
    return {**found, "versions": versions()}


def versions() -> str:
    """Of packages that are installed, and of Python."""
    said = []
    for name in PACKAGES:
        try:
            said.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join([*said, f"Python {platform.python_version()}"])


def ranges(text: str) -> dict[str, str]:
    """The lowest, the median and the highest of each sampled field, from nvidia-smi's lines."""
    rows = [line.split(", ") for line in text.splitlines() if line.count(",") == len(SAMPLED) - 1]
    found = {}
    for name, column in zip(SAMPLED.values(), zip(*rows, strict=True), strict=False):
        numbers = sorted(float(cell.split()[0]) for cell in column if cell.split()[0].replace(".", "", 1).isdigit())
        unit = column[0].partition(" ")[2]
        if numbers:
            said = (numbers[0], numbers[len(numbers) // 2], numbers[-1])
            found[name] = f"{' / '.join(f'{number:g}' for number in said)} {unit}".rstrip()
    return found


@contextmanager
def sampled(into: dict[str, str]) -> Iterator[None]:
    """Samples clocks, power and temperature twice a second meanwhile: lowest / median / highest of each."""
    if not shutil.which("nvidia-smi"):
        yield
        return
    with tempfile.TemporaryFile("w+") as file:
        process = subprocess.Popen(asked(SAMPLED, "-lms", "500"), stdout=file, text=True)
        try:
            yield
        finally:
            process.terminate()
            process.wait()
            file.seek(0)
            into.update({f"{name}, lowest / median / highest": text for name, text in ranges(file.read()).items()})
