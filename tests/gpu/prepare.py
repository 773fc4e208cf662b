"""Compiles what a run on a GPU needs, where the compiler is: `prepare.py --arch sm_90a [--out build/gpu]`.

OUT/kernels has the attention kernels (cubins, and PTX for the simulator beside the GPU), OUT/test_kernels the
simulator's test kernels. `--python cu13=PATH` adds OUT/kernels-cu13, compiled by another Python: one that has
nvidia-cutlass-dsl[cu13].
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "jax_fa4" / "kernels" / "build.py"
TEST_KERNELS = ROOT / "tests" / "simulator" / "kernels" / "build.py"


def commands(arch: str, out: Path, pythons: dict[str, str]) -> list[list[str]]:
    """One for each folder."""
    made = []
    for name, python in {"": sys.executable, **pythons}.items():
        folder = out / f"kernels-{name}" if name else out / "kernels"
        # One cache: what is compiled is kept under a name that the compiler's version is part of.
        made.append([python, "-P", str(KERNELS), "--arch", arch, "--out", str(folder), "--cache", str(out / "cache")])
    if arch == "sm_90a":  # of which the simulator's test kernels run on a GPU
        made.append([sys.executable, str(TEST_KERNELS), arch, str(out / "test_kernels")])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", required=True, help="as jax_fa4/kernels/build.py has it: sm_90a, sm_100f")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="another one to compile with"
    )
    options = parser.parse_args()
    pythons = dict(one.split("=", 1) for one in options.python)
    options.out.mkdir(parents=True, exist_ok=True)
    for command in commands(options.arch, options.out, pythons):
        print(" ".join(command), flush=True)
        subprocess.run(command, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})


if __name__ == "__main__":
    main()
