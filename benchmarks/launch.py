"""Host time of a GPU call: what the handler of platform CUDA itself takes, with a driver that does nothing.

`python benchmarks/launch.py`: microseconds a call, the median and quartiles of rounds, and the share of it in which
the call's buffers and attributes are read (the time of a call whose result is empty).
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cuda"))

import gpu_call
import stub
from gpu_call import BF16, EXECUTE, F32, INITIALIZE, S32, GpuCall, Row
from timing import spread

from jax_fa4 import manifest

ROUNDS, CALLS = 30, 5000
BATCH, LENGTH, HEADS, KEY_HEADS, HEAD_DIM = 2, 4096, 16, 2, 128


def arrays(length: int) -> dict[str, Row]:
    """Those of a dense call; nothing is where they seem to lie."""

    def at(kind: int, *shape: int) -> Row:
        return gpu_call.array(kind, (1, BATCH, *shape), stub.BASE)

    query = at(BF16, length, HEADS, HEAD_DIM)
    key = at(BF16, LENGTH, KEY_HEADS, HEAD_DIM)
    return {"query": query, "key": key, "value": key, "output": query, "log_sum_exp": at(F32, HEADS, length)}


def options() -> dict[str, Row]:
    """Every array that a general call may have beyond those."""
    lengths = gpu_call.array(S32, (1, BATCH), stub.BASE)
    heads = gpu_call.array(F32, (1, 1, HEADS), stub.BASE)
    segments = gpu_call.array(S32, (1, BATCH, LENGTH), stub.BASE)
    return {
        "sinks": heads, "alibi_slopes": heads, "query_segment_ids": segments, "key_value_segment_ids": segments,
        "query_seq_lengths": lengths, "key_value_seq_lengths": lengths, "query_offset": lengths,
    }  # fmt: skip


def microseconds(call: GpuCall, driver: stub.StubDriver) -> list[float]:
    """A call's time, in each round."""
    stream = driver.stream()
    assert call.make(INITIALIZE, stream) == (0, "")
    driver.library.stub_record(0)
    found = []
    for _ in range(ROUNDS):
        assert call.make(EXECUTE, stream, CALLS) == (0, "")
        found.append(call.seconds / CALLS * 1e6)
    return found


def main() -> None:
    calls = {
        "dense": GpuCall(arrays(LENGTH)),
        "causal": GpuCall(arrays(LENGTH), window=(-1, 0)),
        "general, every option": GpuCall(arrays(LENGTH) | options(), logits_soft_cap=30.0),
        "reading the call alone": GpuCall(arrays(0)),
    }
    driver = stub.StubDriver()
    os.environ["JAX_FA4_CUDA_DRIVER"] = str(driver.path)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_FA4_KERNELS"] = str(stub.write(Path(folder), *stub.every_row()))
        manifest.variants()
        print(f"{'call':24} {'us':>6}  quartiles")
        for name, call in calls.items():
            driver.reset("general" if "general" in name else "dense")
            found = spread(microseconds(call, driver))
            print(f"{name:24} {found.median:6.2f}  {found.lower:.2f} .. {found.upper:.2f}")


if __name__ == "__main__":
    main()
