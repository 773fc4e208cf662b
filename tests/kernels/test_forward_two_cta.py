"""Forward kernels in which two CTAs share keys and values, executed: results under the tolerance rule, no report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import built_forward
import ml_dtypes
import numpy as np
import pytest
import tolerance
from forward_launch import Array, Launch, Variant, device_array, read_variants

from jax_fa4.kernels.variants import forward_plans

if not built_forward.available():
    pytest.skip("nvidia-cutlass-dsl, which compiles the kernels, is not installed", allow_module_level=True)

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
PLANS = {plan.name: plan for plan in forward_plans() if plan.ctas == 2}
SCHEDULES: dict[str, dict[str, Any]] = {
    "eager": {}, "lazy": {"schedule": "lazy"}, "random": {"schedule": "random", "seed": 11},
}  # fmt: skip
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
each_head_dim = pytest.mark.parametrize("head_dim", [128, 192])


@pytest.fixture(scope="module")
def folder() -> Path:
    return built_forward.built("sm_100a")


@pytest.fixture(scope="module")
def variants(folder: Path) -> dict[str, Variant]:
    return read_variants(folder)


def variant_of(variants: dict[str, Variant], dtype: str, head_dim: int) -> Variant:
    heads = "d128" if head_dim <= 128 else "d192v128"
    return variants[f"jax_fa4_forward_sm100_{dtype}_{heads}_dense_2cta"]


def inputs_of(
    query: tuple[int, ...], keys: int, key_heads: int = 1, value_head_dim: int = 128, dtype: str = "bfloat16"
) -> dict[str, Array]:
    """Normal inputs inside arrays whose padding, past the last query and key, is NaN."""
    generator = np.random.default_rng(0)
    batch, queries, heads, head_dim = query

    def padded(length: int, heads: int, head_dim: int) -> Array:
        array = device_array(np.full((batch, length + 3, heads, head_dim), np.nan, DTYPES[dtype]))
        array[:, :length] = generator.standard_normal((batch, length, heads, head_dim)).astype(DTYPES[dtype])
        return array[:, :length]

    return {
        "query": padded(queries, heads, head_dim),
        "key": padded(keys, key_heads, head_dim),
        "value": padded(keys, key_heads, value_head_dim),
    }


def launched(variants: dict[str, Variant], inputs: dict[str, Array], options: Any = None, **launch: Any) -> Launch:
    query = inputs["query"]
    made = Launch(variant_of(variants, query.dtype.name, query.shape[-1]), *inputs.values(), **launch)
    made.run(**(options or {}))
    return made


def check(variants: dict[str, Variant], inputs: dict[str, Array], options: Any = None, **launch: Any) -> None:
    """Launches and judges output and log-sum-exp."""
    made = launched(variants, inputs, options, **launch)
    tolerance.assert_forward(inputs, {}, made.output, made.log_sum_exp.swapaxes(1, 2))


@pytest.mark.parametrize("queries", [1, 129, 256, 257, 511, 513, 1025])
def test_lengths_around_the_edges_of_tiles(variants: dict[str, Variant], queries: int) -> None:
    """A pair has 512 rows, of which the second CTA may have none."""
    check(variants, inputs_of((1, queries, 2, 128), 130, 2))


@pytest.mark.parametrize("keys", [1, 63, 64, 65, 127, 128, 129, 192, 256, 300, 600])
def test_lengths_around_the_edges_of_blocks(variants: dict[str, Variant], keys: int) -> None:
    """Each CTA has 64 keys of a block."""
    check(variants, inputs_of((1, 260, 3, 128), keys, 3))


class LaunchWithoutKeys(Launch):
    """A tensor map may not be empty: those of key and value are made over something else, and the number says it."""

    def argument(self, parameter: dict[str, Any], values: dict[str, Any]) -> Any:
        return super().argument(parameter, values | {"keys": 0})


@each_head_dim
@pytest.mark.parametrize("ctas", [None, 2])
def test_no_keys(variants: dict[str, Variant], head_dim: int, ctas: int | None) -> None:
    inputs = inputs_of((1, 600, 2, head_dim), 1)
    made = LaunchWithoutKeys(variant_of(variants, "bfloat16", head_dim), *inputs.values(), ctas=ctas)
    made.run()
    assert (made.output == 0).all() and (made.log_sum_exp == -np.inf).all()


@each_head_dim
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_and_grouped_heads(variants: dict[str, Variant], dtype: str, head_dim: int) -> None:
    """Four query heads and then six for two heads of keys: packed by two, and by one, of three that share them."""
    check(variants, inputs_of((2, 150, 4, head_dim), 260, 2, dtype=dtype))
    check(variants, inputs_of((1, 300, 6, head_dim), 70, 2, dtype=dtype))


@pytest.mark.parametrize(("head_dim", "value_head_dim"), [(72, 72), (120, 104), (136, 64), (168, 8), (192, 96)])
def test_other_head_dims_are_padded_by_the_copies(
    variants: dict[str, Variant], head_dim: int, value_head_dim: int
) -> None:
    """The second CTA's half of the columns of V may lie past the last."""
    check(variants, inputs_of((1, 270, 2, head_dim), 200, value_head_dim=value_head_dim))


@each_head_dim
@each_schedule
def test_many_blocks(variants: dict[str, Variant], head_dim: int, schedule: Any) -> None:
    """The rings of keys and values go round several times."""
    check(variants, inputs_of((1, 300, 1, head_dim), 1300), schedule)


@pytest.mark.slow
@each_head_dim
@each_schedule
@pytest.mark.parametrize("ctas", [2, 6])
def test_fewer_ctas_than_tiles(variants: dict[str, Variant], head_dim: int, ctas: int, schedule: Any) -> None:
    check(variants, inputs_of((2, 600, 2, head_dim), 140, 2), schedule, ctas=ctas, section=3)


@each_schedule
@pytest.mark.parametrize("growth", [40.0, -40.0])
def test_logits_that_grow_from_block_to_block(variants: dict[str, Variant], growth: float, schedule: Any) -> None:
    """Only the second CTA's rows have large queries: it rescales for nearly every block while the first seldom does."""
    inputs = inputs_of((1, 512, 1, 128), 700)
    inputs["query"][...] = 1 + np.abs(inputs["query"])
    inputs["query"][:, :256] *= 0.01
    steps = growth * (6 - np.arange(700) // 128)[None, :, None, None] / 128
    inputs["key"][...] = (inputs["key"].astype(np.float32) * 0.1 + steps).astype(inputs["key"].dtype)
    check(variants, inputs, schedule)


@each_head_dim
def test_two_threads_of_the_simulator(variants: dict[str, Variant], head_dim: int) -> None:
    check(variants, inputs_of((2, 1100, 1, head_dim), 150), {"threads": 2})


@each_head_dim
def test_same_bits_for_every_schedule(variants: dict[str, Variant], head_dim: int) -> None:
    inputs = inputs_of((1, 700, 2, head_dim), 400)
    outputs = [
        launched(variants, inputs, {"schedule": schedule}, ctas=ctas).output.view(np.uint16)
        for schedule, ctas in (("eager", None), ("lazy", 2), ("random", 4))
    ]
    assert (outputs[0] == outputs[1]).all() and (outputs[0] == outputs[2]).all()


def test_same_bits_as_one_cta(variants: dict[str, Variant]) -> None:
    inputs = inputs_of((1, 600, 2, 128), 400)
    pair = launched(variants, inputs)
    alone = Launch(variants["jax_fa4_forward_sm100_bfloat16_d128_dense"], *inputs.values())
    alone.run()
    np.testing.assert_array_equal(pair.output.view(np.uint16), alone.output.view(np.uint16))
    np.testing.assert_array_equal(pair.log_sum_exp, alone.log_sum_exp)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_instruction_is_of_a_pair(folder: Path, plan: Any) -> None:
    """A kernel may use tensor core instructions of one CTA or of two, not of both. Arrivals reach the other CTA."""
    text = (folder / f"{plan.name}.ptx").read_text()
    assert ".cta_group::1" not in text
    commits = re.findall(r"tcgen05\.commit\S+", text)
    assert commits and all("multicast::cluster" in commit for commit in commits)
    copies = re.findall(r"cp\.async\.bulk\.tensor\.\dd\.shared\S+", text)
    assert copies and all("cta_group::2" in copy for copy in copies)
    remote = re.findall(r"mbarrier\.arrive\S*\.shared::cluster\S*", text)
    assert remote and all(".relaxed.cluster." in arrival for arrival in remote)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_pair_comes_before_one_cta_and_halves_what_each_loads(plan: Any) -> None:
    names = [other.name for other in forward_plans()]
    alone = next(other for other in forward_plans() if other.name == plan.name.removesuffix("_2cta"))
    assert names.index(plan.name) < names.index(alone.name)
    assert 2 * plan.keys.tile_bytes == alone.keys.tile_bytes
    assert 2 * plan.values.tile_bytes == alone.values.tile_bytes
    assert sum(plan.tile_slots.values()) >= 2 * sum(alone.tile_slots.values())
    assert plan.manifest()["cluster"] == [2, 1, 1] and plan.manifest()["minimum_rows"] == 256
