"""Takes all memory of the GPU beside JAX's pool, calls a kernel that is not loaded yet, and calls it again with room.

A driver may have kept room for a kernel's code; if not, the call must say what is short and what to do.
"""

from __future__ import annotations

import os
import sys
from ctypes import byref, c_size_t, c_uint64
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "cuda")])

import devices
import jax
import raw
from forward_table import PLAIN
from test_concurrency import assert_right


def main() -> None:
    device = devices.gpu()
    os.environ["JAX_FA4_CUDA_DRIVER"] = str(device.watch.path)
    arrays = device.put(PLAIN.arrays())
    jax.block_until_ready(arrays)
    call = jax.jit(lambda arrays: device.attention(**arrays))
    driver, taken, size = raw.Driver(device.driver), [], 1 << 34
    with driver:
        while size >= 1 << 12:
            address = c_uint64()
            if driver.library.cuMemAlloc_v2(byref(address), c_size_t(size)):
                size //= 2
            else:
                taken.append(address.value)
    try:
        outcome = "worked all the same"
        assert_right(PLAIN, call(arrays))
    except jax.errors.JaxRuntimeError as error:
        if "jax_fa4: loading" in str(error):
            assert "lower XLA_PYTHON_CLIENT_MEM_FRACTION" in str(error), error
        else:
            assert "RESOURCE_EXHAUSTED" in str(error), error
        outcome = "refused in words, and worked afterwards"
    for address in taken:
        driver.free(address)
    assert_right(PLAIN, call(arrays))
    print(outcome)


if __name__ == "__main__":
    main()
