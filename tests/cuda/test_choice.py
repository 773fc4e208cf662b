"""Which variant a call takes, in how many blocks, and what is refused at the launch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gpu_call
import pytest
import stub
from gpu_call import BF16, EXECUTE, F32, GpuCall
from stub import StubDriver
from stub_calls import ADDRESSES, call, launched, with_options

from jax_fa4 import manifest

INVALID_ARGUMENT, UNIMPLEMENTED = 3, 12


def registered(folder: Path, *rows: dict[str, Any], **changes: Any) -> None:
    stub.write(folder, *rows, **changes)
    manifest.variants()


def test_launch_attributes(stub_driver: StubDriver, every_kernel: Path) -> None:
    launch = launched(stub_driver, call())
    assert (launch.block, launch.shared_bytes, launch.cluster, launch.dependent) == (512, 200000, (0, 0, 0), False)
    registered(every_kernel, stub.row("dense", cluster=[2, 1, 1], dependent=True, threads=384, shared_bytes=1000))
    launch = launched(stub_driver, call())
    assert (launch.block, launch.shared_bytes, launch.cluster, launch.dependent) == (384, 1000, (2, 1, 1), True)


@pytest.mark.parametrize(
    ("queries", "cluster", "persistent", "device", "grid"),
    [
        (300, 1, False, 0, 2 * 10),
        (300, 2, False, 0, 2 * 10),  # 300 rows are 2 tiles, or a cluster's two
        (513, 2, False, 0, 2 * 2 * 10),  # a cluster works on one head: what is left of it has nothing to do
        (300, 1, True, 0, 20),
        (4096, 1, True, 0, 148),
        (4096, 2, True, 5, 132),
        (4096, 2, True, 3, 146),  # of 147 multiprocessors
        (4096, 2, True, 7, 2),  # a GPU of one multiprocessor
    ],
    ids=str,
)
def test_grids(
    stub_driver: StubDriver, every_kernel: Path, queries: int, cluster: int, persistent: bool, device: int, grid: int
) -> None:
    row = stub.row("dense", cluster=[cluster, 1, 1], persistent=persistent)
    registered(every_kernel, row, arch="sm_90")
    assert launched(stub_driver, call(lengths=(queries, 8), heads=(5, 5)), device=device).grid == grid


def test_the_first_row_that_can_is_taken(stub_driver: StubDriver) -> None:
    def entry(made: GpuCall) -> str:
        return launched(stub_driver, made, None).entry.removesuffix("_0_0")

    assert entry(call()) == "dense_bfloat16_bfloat16_64_64"
    assert entry(call(head_dims=(72, 8))) == "dense_bfloat16_bfloat16_96_96"
    assert entry(call(head_dims=(64, 128))) == "dense_bfloat16_bfloat16_128_128"
    assert entry(call(head_dims=(192, 128), window=(-1, 0))) == "banded_bfloat16_bfloat16_192_128"
    assert entry(call(window=(4, 0), logits_soft_cap=1.0)) == "general_bfloat16_bfloat16_64_64"
    assert entry(with_options(call(window=(4, 0)), ("query_offset",), (1, 1))) == "banded_bfloat16_bfloat16_64_64"
    assert entry(call(head_dims=(128, 96), output=F32)) == "general_bfloat16_float32_128_128"


def test_variants_for_long_calls(stub_driver: StubDriver, every_kernel: Path) -> None:
    long, short = stub.row("dense", minimum_rows=512, cluster=[2, 1, 1]), stub.row("dense")
    registered(every_kernel, long, short)
    for queries, heads, entry in ((512, (1, 1), short), (513, (1, 1), long), (128, (4, 1), short), (129, (4, 1), long)):
        assert launched(stub_driver, call(lengths=(queries, 8), heads=heads)).entry == entry["entry"]


def test_what_no_row_can_do_says_what_there_is(stub_driver: StubDriver, every_kernel: Path) -> None:
    registered(every_kernel, stub.row("dense"))
    for made, words in (
        (call(head_dims=(136, 64)), "head_dim 136, value head_dim 64"),
        (call(head_dims=(60, 60)), "head_dim 60"),
        (call(output=F32), "head_dim 64, output float32"),
        (call(window=(-1, 0), logits_soft_cap=2.0), "head_dim 64, causal, logits_soft_cap"),
    ):
        code, found = made.make(EXECUTE, stub_driver.stream())
        expected = f"jax_fa4: no kernel for bfloat16, {words} on Stub 0 (sm_100); this build has dense_"
        assert found.startswith(expected)
        assert found.endswith('. Pass implementation="blockwise"')
        assert code == UNIMPLEMENTED


def refused(driver: StubDriver, made: GpuCall) -> str:
    driver.reset()
    code, words = made.make(EXECUTE, driver.stream())
    assert code == INVALID_ARGUMENT
    assert driver.launches() == []
    return words


@pytest.mark.parametrize("stage", [gpu_call.INITIALIZE, EXECUTE])
def test_lengths_are_counted_in_32_bits(stub_driver: StubDriver, stage: int) -> None:
    for lengths, words in (
        ((1 << 30, 8), "query has length 1073741824; the CUDA kernels take lengths below 2^30. Call for parts of the"),
        ((8, 1 << 30), "key has length 1073741824; the CUDA kernels take lengths below 2^30. Call for parts of the"),
    ):
        code, found = call(lengths=lengths, head_dims=(8, 8)).make(stage, stub_driver.stream())
        assert (code, found[: len(words) + 9]) == (INVALID_ARGUMENT, f"jax_fa4: {words}")
    launched(stub_driver, call(lengths=((1 << 30) - 1, (1 << 30) - 1), head_dims=(8, 8), heads=(1, 1), batch=(1, 1)))


def test_too_many_tiles(stub_driver: StubDriver) -> None:
    assert "too large together for one launch" in refused(
        stub_driver, call((1, 1 << 20), lengths=(8, 8), heads=(1 << 11, 1 << 11), head_dims=(8, 8))
    )


def test_memory_that_tensor_maps_cannot_describe(stub_driver: StubDriver) -> None:
    made = call()
    made.arrays["key"] = gpu_call.array(BF16, (1, 2, 200, 2, 64), ADDRESSES["key"] + 8)
    assert refused(stub_driver, made) == "jax_fa4: the tensor map of key: its memory is not aligned to 16 bytes"
