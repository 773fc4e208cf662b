"""The forward kernels, compiled with line information."""

from pathlib import Path
from typing import Any

import dsl_build
import pytest
from dsl_build import available

__all__ = ["ARCHITECTURES", "EACH_ARCHITECTURE", "SOURCES", "available", "built", "folder_of"]

ARCHITECTURES = ("sm_100a", "sm_90a")
# Quick tests compile Blackwell's alone.
EACH_ARCHITECTURE = ("sm_100a", pytest.param("sm_90a", marks=pytest.mark.slow))

SOURCES = Path(__file__).parents[1] / "jax_fa4" / "kernels"
CACHE = dsl_build.BUILD / "kernels" / "cache"  # of variants, for whatever folder


def built(arch: str) -> Path:
    """The folder with every variant for `arch`, and its manifest."""
    options = ["--arch", arch, "--cache", str(CACHE), "--line-info"]
    return dsl_build.built(SOURCES, "kernels", arch, lambda folder: [*options, "--out", folder])


def folder_of(plan: Any) -> Path:
    """The folder with a plan's variant."""
    return built(next(arch for arch in ARCHITECTURES if f"_{arch.replace('_', '')[:-1]}_" in plan.name))
