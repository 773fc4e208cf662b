"""The forward kernels, executed: results under the tolerance rule, and no report of the simulator."""

from __future__ import annotations

import re
from typing import Any

import built_forward
import ml_dtypes
import numpy as np
import pytest
import tolerance
from forward_launch import Array, Launch, Variant, band_of, device_array, read_variants

from jax_fa4.kernels.variants import Plan, forward_plans, hopper_plans

if not built_forward.available():
    pytest.skip("nvidia-cutlass-dsl, which compiles the kernels, is not installed", allow_module_level=True)

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
SCHEDULES: dict[str, dict[str, Any]] = {
    "eager": {}, "lazy": {"schedule": "lazy"}, "random": {"schedule": "random", "seed": 11},
}  # fmt: skip
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


PLANS = {plan.name: plan for plan in (*forward_plans(), *hopper_plans())}


@pytest.fixture(scope="module", params=built_forward.EACH_ARCHITECTURE)
def variants(request: pytest.FixtureRequest) -> dict[str, Variant]:
    return read_variants(built_forward.built(request.param))


def variant_of(variants: dict[str, Variant], dtype: str, head_dim: int, kind: str) -> Variant:
    """Returns the smallest of one CTA that can do it."""
    wanted = {"dtype": dtype, "output": dtype, "kind": kind, "cluster": [1, 1, 1]}
    able = [one for one in variants.values() if wanted.items() <= one.manifest.items()]
    able = [one for one in able if min(one.manifest["head_dim"], one.manifest["value_head_dim"]) >= head_dim]
    return min(able, key=lambda one: one.manifest["head_dim"])


def inputs_of(dtype: str, query: tuple[int, ...], keys: int, key_heads: int, seed: int = 0) -> dict[str, Array]:
    """Normal inputs inside arrays whose padding, past the last query and key, is NaN."""
    generator = np.random.default_rng(seed)
    batch, queries, heads, head_dim = query

    def padded(length: int, heads: int) -> Array:
        array = device_array(np.full((batch, length + 3, heads, head_dim), np.nan, DTYPES[dtype]))
        array[:, :length] = generator.standard_normal((batch, length, heads, head_dim)).astype(DTYPES[dtype])
        return array[:, :length]

    return {"query": padded(queries, heads), "key": padded(keys, key_heads), "value": padded(keys, key_heads)}


def check(
    variants: dict[str, Variant], inputs: dict[str, Array], arguments: dict[str, Any] | None = None, **launch: Any
) -> None:
    """Launches, with the band that the arguments describe, and judges output and log-sum-exp."""
    arguments = arguments or {}
    options = {name: launch.pop(name) for name in ("schedule", "seed") if name in launch}
    banded = bool(arguments) or "query_offset" in inputs
    window = arguments.get("local_window_size", (None, None))
    offset = int(inputs.get("query_offset", np.int32(0)))
    query = inputs["query"]
    variant = variant_of(variants, query.dtype.name, query.shape[-1], "banded" if banded else "dense")
    band = band_of(arguments.get("is_causal", False), window, offset) if banded else (0, 0)
    launched = Launch(variant, query, inputs["key"], inputs["value"], band=band, **launch)
    launched.run(**options)
    tolerance.assert_forward(inputs, arguments, launched.output, launched.log_sum_exp.swapaxes(1, 2))


@pytest.mark.parametrize("queries", [1, 128, 129, 256, 257])
@pytest.mark.parametrize("keys", [1, 127, 128, 129, 300])
def test_lengths_around_tile_edges(variants: dict[str, Variant], queries: int, keys: int) -> None:
    # Three heads, for the tolerance is taken from samples: of one logit, chance may make a naive sum exact.
    check(variants, inputs_of("bfloat16", (1, queries, 3, 128), keys, 1))


@pytest.mark.parametrize("head_dim", [64, 96, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_and_grouped_heads(variants: dict[str, Variant], dtype: str, head_dim: int) -> None:
    check(variants, inputs_of(dtype, (2, 130, 4, head_dim), 260, 2))


@each_schedule
def test_many_blocks(variants: dict[str, Variant], schedule: Any) -> None:
    """The ring of keys and values goes round several times."""
    check(variants, inputs_of("bfloat16", (1, 256, 1, 128), 1100, 1), **schedule)


@pytest.mark.parametrize("head_dim", [8, 40, 96, 120])
def test_other_head_dims_are_padded_by_the_copies(variants: dict[str, Variant], head_dim: int) -> None:
    check(variants, inputs_of("bfloat16", (1, 130, 2, head_dim), 200, 1))


@each_schedule
@pytest.mark.parametrize("ctas", [1, 3])
def test_fewer_ctas_than_tiles(variants: dict[str, Variant], ctas: int, schedule: Any) -> None:
    inputs = inputs_of("bfloat16", (2, 300, 2, 128), 260, 1)
    check(variants, inputs, ctas=ctas, section=3, **schedule)
    check(variants, inputs, {"is_causal": True}, ctas=ctas, section=3, **schedule)


@pytest.mark.parametrize("queries", [1, 128, 130, 256, 400])
@pytest.mark.parametrize("keys", [1, 128, 200, 400])
def test_causal(variants: dict[str, Variant], queries: int, keys: int) -> None:
    check(variants, inputs_of("bfloat16", (1, queries, 3, 128), keys, 1), {"is_causal": True})


@pytest.mark.parametrize("window", [(0, 0), (3, None), (None, 5), (127, 128), (130, 7), (300, 300)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_windows(variants: dict[str, Variant], window: tuple[int | None, int | None], is_causal: bool) -> None:
    arguments = {"local_window_size": window, "is_causal": is_causal}
    check(variants, inputs_of("float16", (1, 390, 1, 64), 513, 1), arguments)


@pytest.mark.parametrize("offset", [-600, -300, -129, -1, 1, 128, 400, 2000])
def test_offsets(variants: dict[str, Variant], offset: int) -> None:
    inputs = inputs_of("bfloat16", (1, 270, 1, 64), 300, 1) | {"query_offset": np.int32(offset)}
    check(variants, inputs, {"is_causal": True, "local_window_size": (250, None)})


@each_schedule
def test_empty_tiles_among_others(variants: dict[str, Variant], schedule: Any) -> None:
    inputs = inputs_of("bfloat16", (1, 530, 2, 64), 200, 1) | {"query_offset": np.int32(-300)}
    check(variants, inputs, {"is_causal": True}, ctas=1, **schedule)


@each_schedule
@pytest.mark.parametrize("growth", [1.0, 40.0, -40.0])
def test_logits_that_grow_from_block_to_block(variants: dict[str, Variant], growth: float, schedule: Any) -> None:
    """Every row's maximum grows by less, or by far more, than what is rescaled for; or falls."""
    inputs = inputs_of("bfloat16", (1, 256, 1, 128), 700, 1)
    inputs["query"][...] = 1 + np.abs(inputs["query"])
    steps = growth * (6 - np.arange(700) // 128)[None, :, None, None] / 128
    inputs["key"][...] = (inputs["key"].astype(np.float32) * 0.1 + steps).astype(inputs["key"].dtype)
    check(variants, inputs, **schedule)


@pytest.mark.parametrize("magnitude", [1e-3, 30.0])
def test_flat_and_peaked_rows(variants: dict[str, Variant], magnitude: float) -> None:
    inputs = inputs_of("bfloat16", (1, 200, 1, 128), 300, 1)
    inputs["query"][...] = (inputs["query"].astype(np.float32) * magnitude).astype(inputs["query"].dtype)
    check(variants, inputs)


def test_same_bits_every_time_and_for_every_schedule(variants: dict[str, Variant]) -> None:
    inputs = inputs_of("bfloat16", (1, 300, 2, 128), 400, 1)
    variant = variant_of(variants, "bfloat16", 128, "banded")
    results = []
    for schedule, ctas in (("eager", None), ("lazy", 1), ("random", 3)):
        launched = Launch(variant, *inputs.values(), band=band_of(True, (None, None), 0), ctas=ctas)
        launched.run(schedule=schedule)
        results.append(launched.output.view(np.uint16).copy())
    assert (results[0] == results[1]).all() and (results[0] == results[2]).all()


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_waits_follow_a_running_parity(plan: Plan) -> None:
    """A parity that tracing took for a constant would wait for the first lap of a ring for ever, or not at all."""
    text = (built_forward.folder_of(plan) / f"{plan.name}.ptx").read_text()
    parities = re.findall(r"mbarrier\.try_wait\.parity\S+\s+%p\d+, \[[^\]]+\], ([^,;]+)", text)
    assert len(parities) >= 14
    registers = [parity for parity in parities if parity.startswith("%r")]
    computed = set(re.findall(r"\n\s+(?!mov)[\w.:]+\s+(%r\d+), ", text))
    constants = set(re.findall(r"mov\.b32\s+(%r\d+), -?\d+;", text)) - computed
    assert not constants & set(registers)
    # Of an output in two parts each is one lap of its ring: for each query tile once in the epilogue, and where it is
    # handed out, on Blackwell once with keys and once without.
    handed = 1 if plan.name.startswith("jax_fa4_forward_sm90") else 2 * plan.query_tiles
    laps = plan.query_tiles + handed if plan.output_parts == 2 else 0
    assert sorted(set(parities) - set(registers)) == ["0", "1"][: 2 * laps]
    assert len(parities) - len(registers) == 2 * laps


@each_schedule
def test_tiles_of_one_block_one_after_another(variants: dict[str, Variant], schedule: Any) -> None:
    """Nothing but what a tile itself hands over keeps it from overtaking the one before."""
    check(variants, inputs_of("bfloat16", (3, 260, 2, 128), 100, 1), ctas=1, **schedule)
