"""The forward kernels, compiled with line information."""

from pathlib import Path

import dsl_build
from dsl_build import available

__all__ = ["SOURCES", "available", "built"]

SOURCES = Path(__file__).parents[1] / "jax_fa4" / "kernels"
CACHE = dsl_build.BUILD / "kernels" / "cache"  # of variants, for whatever folder


def built(arch: str) -> Path:
    """The folder with every variant for `arch`, and its manifest."""
    options = ["--arch", arch, "--cache", str(CACHE), "--line-info"]
    return dsl_build.built(SOURCES, "kernels", arch, lambda folder: [*options, "--out", folder])
