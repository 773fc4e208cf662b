"""The CPU kernel against the float64 oracle, over the table of cases: results and every gradient."""

from __future__ import annotations

import pytest
import tolerance
from cases import FORWARD_AND_BACKWARD, QUICK, Case
from running import forward_and_backward

from jax_fa4 import extension


def check(case: Case, implementation: str | None = None) -> None:
    (output, log_sum_exp), gradients = forward_and_backward(case, implementation)
    arrays, arguments = case.arrays(), case.arguments()
    tolerance.assert_forward(arrays, arguments, output, log_sum_exp)
    tolerance.assert_backward(arrays, arguments, *case.cotangents(), gradients)


@pytest.mark.parametrize("case", FORWARD_AND_BACKWARD, ids=lambda case: case.id)
def test_results_and_gradients(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("instruction_set", extension.cpu_instruction_sets().split(", ")[1:])
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.id)
def test_every_instruction_set(case: Case, instruction_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_FA4_CPU_ISA", instruction_set)
    check(case)
