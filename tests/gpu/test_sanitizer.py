"""compute-sanitizer finds nothing in a few calls of each kind; without it, the calls that it would watch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from devices import Device

CALLS = Path(__file__).with_name("sanitized_calls.py")
# Not on the PATH everywhere.
PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", "/opt/nvidia/compute-sanitizer")
FOUND = 86


def tool() -> str | None:
    """Where it is; COMPUTE_SANITIZER names it if it is elsewhere."""
    named = os.environ.get("COMPUTE_SANITIZER", "compute-sanitizer")
    return shutil.which(named) or shutil.which(named, path=os.pathsep.join(PLACES))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("name", ["memcheck", "racecheck"])
def test_nothing_is_found(name: str, gpu: Device) -> None:
    program = tool()
    if program is None:
        pytest.skip("compute-sanitizer is not here")
    ended = run(
        program, "--tool", name, "--error-exitcode", str(FOUND), "--print-limit", "20",
        sys.executable, str(CALLS), str(gpu.driver), str(gpu.kernels),
    )  # fmt: skip
    text = ended.stdout + ended.stderr
    if "Device not supported" in text:
        pytest.skip("compute-sanitizer does not support this machine")
    assert ended.returncode == 0, text[-6000:]
    assert "0 errors" in text or "0 hazards" in text
    assert text.count(": right") == 5


def test_the_calls_that_it_watches(simulator: Device) -> None:
    ended = run(sys.executable, str(CALLS), str(simulator.driver), str(simulator.kernels))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(": right") == 5
