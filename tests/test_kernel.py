"""The CPU kernel against the float64 oracle, over the table of cases: results and every gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerance
from cases import FORWARD_AND_BACKWARD, QUICK, Case
from running import forward, forward_and_backward

import jax_fa4
from jax_fa4 import extension

# Up to so many rows of a key/value head read keys and values where they lie, unless a backward call follows.
FEW_ROWS = 16


def check(case: Case, implementation: str | None = None) -> None:
    (output, log_sum_exp), gradients = forward_and_backward(case, implementation)
    arrays, arguments = case.arrays(), case.arguments()
    tolerance.assert_forward(arrays, arguments, output, log_sum_exp)
    if case.query_length * case.query_heads // case.key_value_heads <= FEW_ROWS:
        tolerance.assert_forward(arrays, arguments, *forward(case, implementation))
    tolerance.assert_backward(arrays, arguments, *case.cotangents(), gradients)


ALL = [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in FORWARD_AND_BACKWARD]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.id)
def test_results_and_gradients(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("instruction_set", extension.cpu_instruction_sets().split(", ")[1:])
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.id)
def test_every_instruction_set(case: Case, instruction_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_FA4_CPU_ISA", instruction_set)
    check(case)


def test_what_is_hidden_may_have_any_bias() -> None:
    """NaN and infinities of bias behind the mask reach no result and no gradient, under a soft cap too."""
    case = Case(bias="full", mask="full", logits_soft_cap=2.0, is_causal=True, causal_alignment="bottom_right")
    arrays = case.arrays()
    positions = np.arange(case.query_length)[:, None] + case.key_length - case.query_length
    hidden = ~arrays["mask"] | (np.arange(case.key_length) > positions)
    arrays["bias"][hidden] = np.resize([np.nan, np.inf, -np.inf], np.count_nonzero(hidden))

    def loss(differentiable: dict[str, Any]) -> Any:
        return jnp.sum(jnp.sin(jax_fa4.attention(**arrays | differentiable, **case.arguments())))

    asked = {name: arrays[name] for name in ("query", "key", "value", "bias")}
    poisoned = jax.jit(jax.value_and_grad(loss))(asked)
    asked["bias"] = np.where(hidden, 0, asked["bias"])
    jax.tree.map(np.testing.assert_array_equal, poisoned, jax.jit(jax.value_and_grad(loss))(asked))
