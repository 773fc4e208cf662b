"""Calls that the stand-in driver records: their arrays are nowhere, for nothing touches them."""

from __future__ import annotations

from typing import Any

import gpu_call
from gpu_call import BF16, EXECUTE, F32, S32, GpuCall, Row
from stub import Launch, StubDriver

ADDRESSES = {name: (i + 1) << 32 for i, name in enumerate(("query", "key", "value", "output", "log_sum_exp", "other"))}
# Elements of a batch entry, of a call with 4 heads and 300 x 200 positions; those of others are numbers.
WIDTHS = {"sinks": 4, "alibi_slopes": 4, "query_segment_ids": 300, "key_value_segment_ids": 200}


def call(
    batch: tuple[int, ...] = (1, 2), lengths: tuple[int, int] = (300, 200), heads: tuple[int, int] = (4, 2),
    head_dims: tuple[int, int] = (64, 64), output: int = BF16, **options: Any,
) -> GpuCall:  # fmt: skip
    """A call whose arrays all have these batch extents; none of them is there."""
    (queries, keys), (n, k), (h, hv) = lengths, heads, head_dims

    def at(name: str, kind: int, *shape: int) -> Row:
        return gpu_call.array(kind, (*batch, *shape), ADDRESSES[name])

    arrays = {
        "query": at("query", BF16, queries, n, h), "key": at("key", BF16, keys, k, h),
        "value": at("value", BF16, keys, k, hv), "output": at("output", output, queries, n, hv),
        "log_sum_exp": at("log_sum_exp", F32, n, queries),
    }  # fmt: skip
    return GpuCall(arrays, **options)


def launches(driver: StubDriver, made: GpuCall, kind: str | None = "dense", device: int = 0) -> list[Launch]:
    driver.reset(kind)
    assert made.make(EXECUTE, driver.stream(device)) == (0, "")
    return driver.launches()


def launched(driver: StubDriver, made: GpuCall, kind: str | None = "dense", device: int = 0) -> Launch:
    (one,) = launches(driver, made, kind, device)
    return one


def optional(name: str, batch: tuple[int, ...], kind: int | None = None) -> Row:
    kind = kind or (F32 if name in ("sinks", "alibi_slopes") else S32)
    shape = (*batch, WIDTHS[name]) if name in WIDTHS else batch
    return gpu_call.array(kind, shape, ADDRESSES["other"])


def with_options(made: GpuCall, names: tuple[str, ...], batch: tuple[int, ...], kind: int | None = None) -> GpuCall:
    made.arrays |= {name: optional(name, batch, kind) for name in names}
    return made
