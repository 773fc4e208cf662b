"""The simulator's test kernels, compiled."""

from pathlib import Path

import dsl_build
from dsl_build import available

__all__ = ["available", "built"]


def built(arch: str) -> Path:
    """The folder with NAME.ptx and NAME.json of every kernel for `arch`."""
    return dsl_build.built(Path(__file__).parent / "kernels", "simulator_kernels", arch, lambda folder: [arch, folder])
