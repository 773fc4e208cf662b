"""What a kernel is launched with: every number, pointer and tensor map of the contract, read back from a stand-in."""

from __future__ import annotations

import gpu_call
import pytest
import stub
from gpu_call import BF16, F16, F32, F64
from stub import StubDriver
from stub_calls import ADDRESSES, WIDTHS, call, launched, launches, with_options

BFLOAT16, FLOAT32 = 9, 7  # CUtensorMapDataType
SWIZZLE_128B = 3
LOG2_E = 1.4426950408889634


def test_numbers(stub_driver: StubDriver) -> None:
    parameters = launched(stub_driver, call(scale=0.5)).parameters
    assert parameters["log_sum_exp"] == ADDRESSES["log_sum_exp"]
    assert parameters["scale_log2"] == pytest.approx(0.5 * LOG2_E, rel=1e-7)
    names = ("queries", "keys", "heads", "group", "pack_shift", "batch")
    assert [parameters[name] for name in names] == [300, 200, 2, 1, 1, 2]


@pytest.mark.parametrize(
    ("heads", "pack"),
    [((1, 1), 1), ((5, 5), 1), ((4, 2), 2), ((8, 1), 8), ((6, 1), 2), ((7, 1), 1), ((24, 2), 4), ((256, 1), 128)],
    ids=str,
)
def test_heads_that_share_keys_are_packed(stub_driver: StubDriver, heads: tuple[int, int], pack: int) -> None:
    n, k = heads
    launch = launched(stub_driver, call(heads=heads, head_dims=(128, 64)))
    parameters = launch.parameters
    assert parameters["heads"] == n // pack
    assert parameters["group"] == n // k // pack
    assert 1 << parameters["pack_shift"] == pack
    query = parameters["query"]
    assert (query.type, query.address, query.swizzle) == (BFLOAT16, ADDRESSES["query"], SWIZZLE_128B)
    assert query.extents == (128, pack, 300, n // pack, 2)
    assert query.strides == (128 * 2, n * 128 * 2, pack * 128 * 2, 300 * n * 128 * 2)
    assert query.box == (64, pack, 128 // pack, 1, 1)
    output = parameters["output"]
    assert output.extents == (64, pack, 300, n // pack, 2)
    assert output.strides == (64 * 2, n * 64 * 2, pack * 64 * 2, 300 * n * 64 * 2)
    assert output.box == query.box
    assert parameters["key"].extents == (128, k, 200, 2)
    assert parameters["key"].strides == (128 * 2, k * 128 * 2, 200 * k * 128 * 2)
    assert parameters["value"].extents == (64, k, 200, 2)
    assert parameters["value"].box == parameters["key"].box == (64, 1, 128, 1)
    assert launch.grid == -(-300 * pack // 256) * (n // pack) * 2


def test_packs_shrink_where_rows_would_not_be_countable(stub_driver: StubDriver) -> None:
    parameters = launched(stub_driver, call(lengths=((1 << 26) + 1, 8), heads=(128, 1), head_dims=(8, 8))).parameters
    assert parameters["pack_shift"] == 3
    assert parameters["group"] == 16


def test_a_call_without_keys_has_maps_of_one(stub_driver: StubDriver) -> None:
    launch = launched(stub_driver, call(lengths=(300, 0)))
    parameters = launch.parameters
    assert parameters["keys"] == 0
    for name in ("key", "value"):
        assert parameters[name].address == ADDRESSES["output"]
        assert parameters[name].extents == (64, 2, 1, 2)
    assert launch.grid == 3 * 2 * 2


@pytest.mark.parametrize(
    ("window", "band"),
    [
        ((-1, 0), (-(1 << 30), 0)),
        ((5, 3), (-5, 3)),
        ((0, -1), (0, 1 << 30)),
        ((1 << 40, 7), (-(1 << 30), 7)),
        ((-1, (1 << 31) - 1), (-(1 << 30), 1 << 30)),
    ],
    ids=str,
)
def test_bands(stub_driver: StubDriver, window: tuple[int, int], band: tuple[int, int]) -> None:
    launch = launched(stub_driver, call(window=window), "banded")
    assert launch.entry.startswith("banded")
    assert (launch.parameters["low"], launch.parameters["high"]) == band


def test_sections_fill_half_the_cache(stub_driver: StubDriver) -> None:
    """The stand-in has 128 MiB of L2."""
    keys = 1 << 16  # 2 x 64 x 2 bytes each: 16 MiB a head, 4 of them in half the cache; a group of 3 is not packed
    assert launched(stub_driver, call(lengths=(8, keys), heads=(24, 8))).parameters["section"] == 4 * 3
    assert launched(stub_driver, call(lengths=(8, keys), heads=(3, 3))).parameters["section"] == 4
    assert launched(stub_driver, call((1, 1), lengths=(8, keys), heads=(3, 3))).parameters["section"] == 3
    assert launched(stub_driver, call(lengths=(8, 100 * keys), heads=(16, 2))).parameters["section"] == 1
    assert launched(stub_driver, call(lengths=(8, 0), heads=(4, 2))).parameters["section"] == 4


# --- What general kernels take besides ---


def test_what_is_absent_is_null(stub_driver: StubDriver) -> None:
    launch = launched(stub_driver, call(logits_soft_cap=30.0), "general")
    assert launch.entry.startswith("general_bfloat16_bfloat16")
    assert launch.parameters["logits_soft_cap"] == 30.0
    for name in stub.STRIDED:
        assert launch.parameters[name] == launch.parameters[f"{name}_stride"] == 0
    without_cap = launched(stub_driver, with_options(call(), ("query_seq_lengths",), (1, 2)), "general")
    assert without_cap.parameters["logits_soft_cap"] == 0


@pytest.mark.parametrize("name", stub.STRIDED)
@pytest.mark.parametrize("shared", [False, True], ids=["full", "shared"])
def test_optional_arrays(stub_driver: StubDriver, name: str, shared: bool) -> None:
    names = (name,) if "segment" not in name else ("query_segment_ids", "key_value_segment_ids")
    # With a soft cap, which general kernels alone have.
    made = with_options(call(logits_soft_cap=1.0), names, (1, 1 if shared else 2))
    launch = launched(stub_driver, made, "general")
    for other in stub.STRIDED:
        assert launch.parameters[other] == (ADDRESSES["other"] if other in names else 0)
    assert launch.parameters[f"{name}_stride"] == (0 if shared else WIDTHS.get(name, 1))


@pytest.mark.parametrize(("kind", "number"), [(F32, 0), (BF16, 1), (F16, 2), (F64, 3)])
def test_dtypes_of_sinks_and_slopes(stub_driver: StubDriver, kind: int, number: int) -> None:
    for name, other in (("sinks", "alibi_slopes"), ("alibi_slopes", "sinks")):
        parameters = launched(stub_driver, with_options(call(), (name,), (1, 1), kind), "general").parameters
        assert parameters[f"{name}_dtype"] == number
        assert parameters[f"{other}_dtype"] == 0


def test_float32_output(stub_driver: StubDriver) -> None:
    launch = launched(stub_driver, call(output=F32), "general")
    assert launch.entry.startswith("general_bfloat16_float32")
    output = launch.parameters["output"]
    assert (output.type, output.box) == (FLOAT32, (32, 2, 64, 1, 1))
    assert output.strides == (64 * 4, 4 * 64 * 4, 2 * 64 * 4, 300 * 4 * 64 * 4)


# --- Batch axes: which entries one launch walks over ---


@pytest.mark.parametrize(
    ("name", "batch", "entries", "stride", "steps"),
    [
        ("key", (2, 3), 6, None, [0]),
        ("key", (1, 3), 3, None, [0, 0]),  # shared by vmap's axis: a launch for each of its elements
        ("key", (2, 1), 1, None, [0, 0, 0, 1, 1, 1]),
        ("sinks", (2, 3), 6, 4, [0]),
        ("sinks", (1, 1), 6, 0, [0]),  # the kernel takes a stride: shared over all is one launch
        ("sinks", (1, 3), 3, 4, [0, 0]),
        ("sinks", (2, 1), 3, 0, [0, 1]),
        ("query_offset", (2, 1), 3, 0, [0, 1]),
        ("query_seq_lengths", (1, 3), 3, 1, [0, 0]),
    ],
    ids=str,
)
def test_batch_axes_are_merged_where_arrays_allow(
    stub_driver: StubDriver, name: str, batch: tuple[int, ...], entries: int, stride: int | None, steps: list[int]
) -> None:
    made = call((2, 3))
    volume = 1
    if name == "key":
        made.arrays["key"] = gpu_call.array(BF16, (*batch, 200, 2, 64), ADDRESSES["key"])
        volume = 200 * 2 * 64 * 2
    else:
        made = with_options(made, (name,), batch)
        volume = 4 * WIDTHS.get(name, 1)
    found = launches(stub_driver, made, {"key": "dense", "query_offset": "banded"}.get(name, "general"))
    assert [launch.parameters["batch"] for launch in found] == [entries] * (6 // entries)
    queries = [launch.parameters["query"].address - ADDRESSES["query"] for launch in found]
    assert queries == [i * entries * 300 * 4 * 64 * 2 for i in range(6 // entries)]
    rows = [launch.parameters["log_sum_exp"] - ADDRESSES["log_sum_exp"] for launch in found]
    assert rows == [i * entries * 300 * 4 * 4 for i in range(6 // entries)]
    if name == "key":
        addresses = [launch.parameters["key"].address - ADDRESSES["key"] for launch in found]
    else:
        addresses = [launch.parameters[name] - ADDRESSES["other"] for launch in found]
        assert {launch.parameters[f"{name}_stride"] for launch in found} == {stride}
    assert addresses == [step * volume for step in steps]


@pytest.mark.parametrize("batch", [(2, 1, 3), (6, 1), (1, 6)], ids=str)
def test_axes_of_one_entry_do_not_count(stub_driver: StubDriver, batch: tuple[int, ...]) -> None:
    launch = launched(stub_driver, with_options(call(batch), ("sinks",), batch), "general")
    assert (launch.parameters["batch"], launch.parameters["sinks_stride"]) == (6, 4)
