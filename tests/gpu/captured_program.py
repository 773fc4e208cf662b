"""Runs one program of three calls again and again, and says as JSON how often kernels were launched, and captured.

Each result is judged; a wrong one ends the program.

`captured_program.py [simulator]`; JAX_FA4_KERNELS and XLA_FLAGS are the caller's.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "cuda")])

import dataclasses

import devices
import jax
import numpy as np
import tolerance
from forward_table import PLAIN

RUNS, CALLS = 20, 3


def main() -> None:
    device = devices.simulator() if "simulator" in sys.argv[1:] else devices.gpu()
    os.environ["JAX_FA4_CUDA_DRIVER"] = str(device.watch.path)
    runs = RUNS if device.is_gpu else 2
    # Each call's output is the next one's query; heads of keys and values are as many.
    case = dataclasses.replace(PLAIN, key_value_heads=2)
    arrays = device.put(case.arrays())

    def program(query, key, value):  # type: ignore[no-untyped-def]
        outputs = []
        for _ in range(CALLS):
            query, _ = device.attention(query=query, key=key, value=value)
            outputs.append(query)
        return outputs

    compiled = jax.jit(program)
    device.watch.reset()
    for _ in range(runs):
        outputs = [np.asarray(output) for output in compiled(**arrays)]
        query = np.asarray(arrays["query"])
        for output in outputs:
            inputs = {"query": query, "key": np.asarray(arrays["key"]), "value": np.asarray(arrays["value"])}
            tolerance.assert_forward(inputs, {}, output)
            query = output
        arrays["query"] = arrays["query"] * 0.75
    launches = device.watch.launches()
    captured = sum(launch.captured for launch in launches)
    print(json.dumps({"captured": captured, "launches": len(launches), "runs": runs * CALLS}))


if __name__ == "__main__":
    main()
