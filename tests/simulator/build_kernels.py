"""The simulator's test kernels, compiled."""

import os
from pathlib import Path

import dsl_build

__all__ = ["available", "built"]

# A folder of them that was filled elsewhere, for machines without the compiler.
VARIABLE = "JAX_FA4_TEST_KERNELS"


def available() -> bool:
    """Whether they are there or can be compiled."""
    return VARIABLE in os.environ or dsl_build.available()


def built(arch: str) -> Path:
    """The folder with NAME.ptx, NAME.cubin and NAME.json of every kernel for `arch`."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return dsl_build.built(Path(__file__).parent / "kernels", "simulator_kernels", arch, lambda folder: [arch, folder])
