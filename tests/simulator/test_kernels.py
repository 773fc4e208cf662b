"""Kernels of our own, compiled by CuTe DSL, compute exact results under every schedule and are free of reports."""

from __future__ import annotations

import re
from typing import Any

import build_kernels
import pytest
from gemm_launches import GEMMS
from launches import ARCHITECTURES, LAUNCHES, Launch

pytestmark = pytest.mark.skipif(
    not build_kernels.available(), reason="nvidia-cutlass-dsl, which compiles the kernels, exists for Linux alone"
)

ALL = [pytest.param(launch, arch, id=f"{arch}-{launch.name}")
       for launch in [*LAUNCHES, *GEMMS] for arch in launch.architectures]  # fmt: skip
SCHEDULES: list[dict[str, Any]] = [
    {"schedule": "eager"},
    {"schedule": "lazy"},
    *({"schedule": "random", "seed": seed} for seed in range(3)),
    {"schedule": "random", "seed": 3, "threads": 2},
]


@pytest.mark.parametrize(("launch", "arch"), ALL)
def test_exact_under_every_schedule(launch: Launch, arch: str) -> None:
    case = launch.case(arch)
    executed = 0
    for options in SCHEDULES:
        result, results = case.launch(case.kernel, **options)
        assert not result.reports, f"{options}\n" + "\n\n".join(report.text for report in result.reports)
        assert not result.failed
        case.check(results)
        executed = executed + result.executed
    statements = zip(executed, case.kernel.text, strict=True)
    # A branch that is not taken counts as not executed; a GEMM's are for a product without K tiles.
    assert not [text for count, text in statements if count == 0 and not re.match(r"@%p\d+ bra", text)]


def test_tiles_are_stolen() -> None:
    case = next(launch for launch in LAUNCHES if launch.name == "steal_tiles").case("sm_100a")
    _, ((_, _), (owner, _)) = case.launch(case.kernel)
    assert len(set(owner)) < len(owner)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_kernel_is_left_out(arch: str) -> None:
    compiled = {file.stem for file in build_kernels.built(arch).glob("*.ptx")}
    assert compiled == {launch.name for launch in [*LAUNCHES, *GEMMS] if arch in launch.architectures}
