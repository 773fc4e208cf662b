"""The general variants, executed: each feature alone and all of them together, in every order of events."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import built_forward
import numpy as np
import pytest
import tolerance
from cases import Case
from forward_launch import Variant, launch_of, read_variants

if not built_forward.available():
    pytest.skip("nvidia-cutlass-dsl, which compiles the kernels, is not installed", allow_module_level=True)

SCHEDULES: dict[str, dict[str, Any]] = {
    "eager": {}, "lazy": {"schedule": "lazy"}, "random": {"schedule": "random", "seed": 3},
}  # fmt: skip
PLAIN = Case("bfloat16", batch=2, query_length=150, key_length=300, query_heads=4, head_dim=128)
CASES = {
    "nothing": PLAIN,
    "soft_cap": dataclasses.replace(PLAIN, logits_soft_cap=2.0),
    "large_soft_cap": dataclasses.replace(PLAIN, logits_soft_cap=50.0, is_causal=True),
    "sinks": dataclasses.replace(PLAIN, sinks=True),
    "sinks_of_bfloat16": dataclasses.replace(PLAIN, sinks=True, alibi=True, parameter_dtype="bfloat16"),
    "alibi": dataclasses.replace(PLAIN, alibi=True, is_causal=True),
    "lengths": dataclasses.replace(PLAIN, batch=7, lengths="both", nan_padding=True),
    "segments": dataclasses.replace(PLAIN, segments="packed", nan_padding=True),
    "offsets": dataclasses.replace(PLAIN, batch=5, query_offset="batch", is_causal=True, window=(100, None)),
    "all": Case(
        "bfloat16", batch=3, query_length=130, key_length=260, query_heads=4, head_dim=128, is_causal=True,
        window=(147, None), logits_soft_cap=3.0, lengths="both", segments="packed", query_offset="batch", sinks=True,
        alibi=True, nan_padding=True,
    ),
}  # fmt: skip


def variants_for(arch: str) -> dict[str, Variant]:
    """Returns the variants by what their names end with."""
    found = read_variants(built_forward.built(arch))
    return {re.sub(r"jax_fa4_forward_sm\d+_", "", name): variant for name, variant in found.items()}


@pytest.fixture(scope="module", params=built_forward.EACH_ARCHITECTURE)
def variants(request: pytest.FixtureRequest) -> dict[str, Variant]:
    return variants_for(request.param)


# What tests/cuda/test_attention.py does for both, this file does in all orders for one.
@pytest.fixture(scope="module")
def blackwell() -> dict[str, Variant]:
    return variants_for("sm_100a")


@pytest.fixture(scope="module")
def hopper() -> dict[str, Variant]:
    return variants_for("sm_90a")


def check(variant: Variant, case: Case, schedule: dict[str, Any], **options: Any) -> None:
    launched = launch_of(variant, case, **options)
    launched.run(**schedule)
    inputs = {name: np.asarray(array) for name, array in case.arrays().items()}
    tolerance.assert_forward(inputs, case.arguments(), launched.output, launched.log_sum_exp.swapaxes(1, 2))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_features(blackwell: dict[str, Variant], case: Case, schedule: dict[str, Any]) -> None:
    check(blackwell["bfloat16_d128_general"], case, schedule)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("ctas", [None, 1])
def test_offsets_of_a_band(variants: dict[str, Variant], ctas: int | None, schedule: dict[str, Any]) -> None:
    check(variants["bfloat16_d128_banded"], CASES["offsets"], schedule, ctas=ctas)


WIDE = dataclasses.replace(PLAIN, head_dim=192, value_head_dim=128)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(("kind", "case"), [
    ("dense", WIDE),
    ("dense", dataclasses.replace(WIDE, key_length=1000, growing_logits=True)),
    ("dense", dataclasses.replace(WIDE, head_dim=136, value_head_dim=72)),
    ("banded", dataclasses.replace(WIDE, query_length=300, is_causal=True)),
    ("general", dataclasses.replace(CASES["all"], head_dim=192, value_head_dim=128)),
])  # fmt: skip
@pytest.mark.parametrize("ctas", [None, 1])
def test_wide_queries(
    blackwell: dict[str, Variant], kind: str, case: Case, ctas: int | None, schedule: dict[str, Any]
) -> None:
    """Keys and values in rings of their own, and an output tile where the queries were."""
    check(blackwell[f"bfloat16_d192v128_{kind}"], case, schedule, ctas=ctas)


WIDEST = dataclasses.replace(PLAIN, head_dim=256, value_head_dim=256)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "case"), [
    ("dense", dataclasses.replace(WIDEST, key_length=500, growing_logits=True)),
    ("dense", dataclasses.replace(WIDEST, head_dim=200, value_head_dim=248)),
    ("banded", dataclasses.replace(WIDEST, query_length=300, is_causal=True)),
    ("general", dataclasses.replace(CASES["all"], head_dim=256, value_head_dim=256)),
])  # fmt: skip
@pytest.mark.parametrize(("ctas", "schedule"), [(None, "random"), (1, "lazy")])
def test_widest_heads(hopper: dict[str, Variant], kind: str, case: Case, ctas: int | None, schedule: str) -> None:
    """Only on Hopper, in smaller blocks of keys."""
    check(hopper[f"bfloat16_d256_{kind}"], case, SCHEDULES[schedule], ctas=ctas)


@pytest.mark.parametrize("head_dim", [64, 96, 192, 256])
@pytest.mark.parametrize("name", ["general", "general_float32"])
def test_every_feature_on_hopper(hopper: dict[str, Variant], name: str, head_dim: int) -> None:
    """Other sizes of blocks, and more or fewer warpgroups."""
    values = min(head_dim, 128) if head_dim == 192 else head_dim
    heads = "d192v128" if head_dim == 192 else f"d{head_dim}"
    case = dataclasses.replace(CASES["all"], head_dim=head_dim, value_head_dim=values)
    check(hopper[f"bfloat16_{heads}_{name}"], case, {}, ctas=1)


@pytest.mark.parametrize("kind", ["dense", "banded", "general"])
def test_no_keys(variants: dict[str, Variant], kind: str) -> None:
    """Zeros, and a log-sum-exp of -inf or the sink."""
    case = dataclasses.replace(PLAIN, key_length=0, is_causal=kind == "banded", sinks=kind == "general")
    check(variants[f"bfloat16_d128_{kind}"], case, {}, ctas=1)


@pytest.mark.parametrize("ctas", [None, 1])
@pytest.mark.parametrize("case", [PLAIN, CASES["all"]], ids=["nothing", "all"])
def test_float32_output(variants: dict[str, Variant], case: Case, ctas: int | None) -> None:
    check(variants["bfloat16_d128_general_float32"], case, {}, ctas=ctas)
