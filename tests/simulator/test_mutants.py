"""Each wait, arrival, fence and commit of the test kernels is needed: without it, something is noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import build_kernels
import pytest
from gemm_launches import GEMMS
from jax_fa4_simulator import mutate
from launches import LAUNCHES, Launch

pytestmark = pytest.mark.skipif(
    not build_kernels.available(), reason="nvidia-cutlass-dsl, which compiles the kernels, exists for Linux alone"
)

SYNCHRONISED = [pytest.param(launch, arch, id=f"{arch}-{launch.name}")
                for launch in [*LAUNCHES, *GEMMS] for arch in launch.architectures
                if launch.name != "add_scaled"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("launch", "arch"), SYNCHRONISED)
def test_every_mutant_is_caught_or_explained(launch: Launch, arch: str) -> None:
    case = launch.case(arch)
    verdicts = mutate.mutate(case, seeds=3, jobs=1)
    assert len(verdicts) >= 4
    assert mutate.survivors(case, verdicts) == [], mutate.report(case, verdicts)
    alive = {verdict.mutant.statement for verdict in verdicts if verdict.caught_by is None}
    assert alive == set(launch.explained), "an explanation that no survivor needs any more"


@pytest.mark.parametrize("arch", ["sm_90a", "sm_100a"])
def test_command_takes_the_case_files(arch: str) -> None:
    cases = Path(__file__).parent / "cases" / f"{arch}.py"
    command = [sys.executable, "-m", "jax_fa4_simulator.mutate", str(cases), "--only", "ordered_reduce", "--seeds", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{arch} ordered_reduce: 4 of 4 mutants caught" in done.stdout
