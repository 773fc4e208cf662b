"""Results and gradients of every strategy and layout are those of one device, within the rule of tolerance.py."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest
import tolerance
import whole
from cases import Case
from running import precision_of, results_and_gradients

STRATEGIES = ("ring", "all_gather", "ulysses")
LAYOUTS = ("contiguous", "zigzag")
DEVICES = 4
SMALL = {"query_length": 64, "key_length": 96, "head_dim": 16}
# Rows of every kind, on every device: full, partial, empty.
EVERYTHING = Case(
    batch=3, **SMALL, is_causal=True, window=(37, None), logits_soft_cap=3.0, lengths="both", segments="packed",
    query_offset="batch", sinks=True, alibi=True, nan_padding=True, value_head_dim=24,
)  # fmt: skip
CASES = (
    Case("bfloat16", **SMALL, is_causal=True, causal_alignment="bottom_right", window=(20, None), sinks=True),
    Case("bfloat16", **SMALL, growing_logits=True, alibi=True, parameter_dtype="bfloat16"),
    Case(**SMALL, window=(9, 5), sinks=True, query_offset="scalar"),
)
MORE = (
    ("ring", "contiguous", Case(**SMALL, logits_soft_cap=2.0, segments="packed", nan_padding=True)),
    ("ring", "contiguous", Case("float64", **SMALL, is_causal=True, sinks=True, alibi=True)),
    ("ring", "zigzag", Case("bfloat16", **SMALL, is_causal=True, lengths="both", causal_alignment="bottom_right")),
    ("all_gather", "zigzag", Case("float16", **SMALL, window=(70, 3), sinks=True, alibi=True)),
    # One key for each query: probabilities are 1, and nothing hides in a sum.
    ("ring", "zigzag", Case(query_length=256, key_length=256, is_causal=True, window=(0, None), key_value_heads=4)),
    ("ulysses", "zigzag", Case(query_length=8, key_length=64, query_heads=8, key_value_heads=4, is_causal=True)),
    ("ulysses", "contiguous", Case("bfloat16", **SMALL, query_heads=8, key_value_heads=1, sinks=True)),
)


def check(case: Case, **options: Any) -> None:
    """Compares with the oracle."""
    devices = whole.mesh(DEVICES)
    call = whole.attention(devices, **case.arguments(), **options)
    with precision_of(case):
        arrays, cotangents = case.arrays(), case.cotangents()
        compiled = jax.jit(functools.partial(results_and_gradients, call)).lower(arrays, cotangents).compile()
        whole.assert_kernels(compiled)
        (output, log_sum_exp), gradients = jax.tree.map(np.asarray, compiled(arrays, cotangents))
    tolerance.assert_forward(arrays, case.arguments(), output, log_sum_exp)
    tolerance.assert_backward(arrays, case.arguments(), *cotangents, gradients)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_everything(strategy: str, layout: str) -> None:
    check(EVERYTHING, strategy=strategy, layout=layout)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_ring(case: Case) -> None:
    check(case, strategy="ring", layout="zigzag")


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "layout", "case"), MORE, ids=lambda value: getattr(value, "id", value))
def test_more(strategy: str, layout: str, case: Case) -> None:
    check(case, strategy=strategy, layout=layout)
