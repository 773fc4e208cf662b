"""A few calls of each kind without XLA, for compute-sanitizer: the process launches no kernels but ours.

`sanitized_calls.py DRIVER KERNELS`: the driver's library, the folder of compiled kernels. Results are judged too.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "cuda")])
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np
import raw
import tolerance
from forward_table import KINDS, PLAIN

SMALL = dataclasses.replace(PLAIN, query_length=70, key_length=200)
CASES = (
    SMALL,
    dataclasses.replace(SMALL, query_length=300, is_causal=True, head_dim=64),
    dataclasses.replace(KINDS["general"], query_length=140, key_length=140, batch=2),
    dataclasses.replace(SMALL, head_dim=40, value_head_dim=72, query_length=1, key_length=1),
    dataclasses.replace(SMALL, query_heads=8, key_value_heads=2, key_length=0),
)


def main() -> None:
    driver_path, kernels = sys.argv[1:3]
    os.environ["JAX_FA4_CUDA_DRIVER"], os.environ["JAX_FA4_KERNELS"] = driver_path, kernels
    driver = raw.Driver(Path(driver_path))
    stream = driver.stream()
    for case in CASES:
        prepared = raw.prepare(driver, case)
        tolerance.assert_forward(case.arrays(), case.arguments(), *map(np.asarray, prepared.run(stream)))
        prepared.free()
        print(f"{case.id}: right", flush=True)


if __name__ == "__main__":
    main()
