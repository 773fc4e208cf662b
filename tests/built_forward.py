"""The forward kernels, compiled with line information."""

from pathlib import Path

import dsl_build
from dsl_build import available

__all__ = ["available", "built"]

SOURCES = Path(__file__).parents[1] / "jax_fa4" / "kernels"


def built(arch: str) -> Path:
    """The folder with every variant for `arch`, and its manifest."""
    return dsl_build.built(SOURCES, "kernels", arch, lambda folder: ["--arch", arch, "--out", folder, "--line-info"])
