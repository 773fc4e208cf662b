"""Results and gradients of every strategy and layout are those of one device, within the rule of tolerance.py."""

from __future__ import annotations

import functools
import platform
from typing import Any

import jax
import numpy as np
import pytest
import tolerance
import whole
from cases import Case
from running import precision_of, results_and_gradients

import jax_fa4

DEVICES = 4
SMALL = {"query_length": 64, "key_length": 96, "head_dim": 16}
# Rows of every kind: full, partial, empty. Lengths end within and between the parts of devices.
EVERYTHING = Case(
    batch=3, query_length=128, key_length=96, head_dim=16, value_head_dim=24, is_causal=True, window=(37, None),
    logits_soft_cap=3.0, lengths="both", segments="packed", query_offset="batch", sinks=True, alibi=True,
    nan_padding=True,
)  # fmt: skip
CASES = (
    Case("bfloat16", **SMALL, is_causal=True, causal_alignment="bottom_right", window=(20, None), sinks=True),
    Case("bfloat16", **SMALL, growing_logits=True, alibi=True, parameter_dtype="bfloat16"),
    Case(**SMALL, window=(9, 5), sinks=True, query_offset="scalar"),
)
MORE = (
    ("ring", "contiguous", Case(**SMALL, logits_soft_cap=2.0, segments="packed", nan_padding=True)),
    ("ring", "contiguous", Case("float64", **SMALL, is_causal=True, sinks=True, alibi=True)),
    ("ring", "contiguous", Case("bfloat16", **SMALL, is_causal=True, lengths="both", causal_alignment="bottom_right")),
    ("all_gather", "zigzag", Case("float16", **SMALL, window=(70, 3), sinks=True, alibi=True)),
    # One key for each query: probabilities are 1, and nothing hides in a sum.
    ("ring", "contiguous", Case(query_length=256, key_length=256, is_causal=True, window=(0, None), key_value_heads=4)),
    # The same with few rows on a device, which decoding adds up in an order of its own.
    (
        "ring",
        "contiguous",
        Case(
            batch=8,
            query_length=64,
            key_length=64,
            query_heads=8,
            key_value_heads=8,
            is_causal=True,
            window=(0, None),
        ),
    ),
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "layout"),
    [("ring", "contiguous"), ("ring", "zigzag"), ("all_gather", "zigzag"), ("ulysses", "zigzag")],
)
def test_everything(strategy: str, layout: str) -> None:
    check(EVERYTHING, strategy=strategy, layout=layout)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_ring(case: Case) -> None:
    check(case, strategy="ring", layout="zigzag")


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "layout", "case"), MORE, ids=lambda value: getattr(value, "id", value))
def test_more(strategy: str, layout: str, case: Case) -> None:
    check(case, strategy=strategy, layout=layout)


def test_sums_over_steps_are_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 results of 8 devices are those of one, bit by bit but for ties: what travels and waits is float32."""
    # Kernels for float32's units, which round nothing but results.
    monkeypatch.setenv("JAX_FA4_CPU_ISA", "neon" if platform.machine() in ("aarch64", "arm64") else "generic")
    case = Case("bfloat16", query_length=256, key_length=256, is_causal=True, head_dim=16)
    arrays, cotangents = case.arrays(), case.cotangents()

    def run(call: Any) -> Any:
        return jax.jit(functools.partial(results_and_gradients, call))(arrays, cotangents)

    options = {**case.arguments(), "return_residual": True}
    (expected, _), expected_gradients = run(functools.partial(jax_fa4.attention, **options))
    (output, _), gradients = run(whole.attention(whole.mesh(8), layout="zigzag", **case.arguments()))
    for name, one in {"output": expected, **expected_gradients}.items():
        other = output if name == "output" else gradients[name]
        assert np.mean(np.asarray(one) != np.asarray(other)) < 0.01, name
