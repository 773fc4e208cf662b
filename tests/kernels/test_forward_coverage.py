"""Nearly every statement of a kernel's PTX is executed by a few launches, and what is not is known."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import built_forward
import numpy as np
import pytest
from cases import Case
from forward_launch import Launch, Variant, launch_of, read_variants

from jax_fa4.kernels.variants import Plan, forward_plans, hopper_plans

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not built_forward.available(), reason="nvidia-cutlass-dsl, which compiles the kernels, is not installed"
    ),
]

PLAIN = Case("bfloat16", batch=1, query_length=300, key_length=1100, query_heads=2, key_value_heads=1, head_dim=128)
# Full and cut blocks, empty tiles, rows that are rescaled, tiles one after the other in a CTA, rings that wrap.
LAUNCHES = {
    "dense": [
        PLAIN,
        dataclasses.replace(PLAIN, falling_logits=True, batch=2),
        dataclasses.replace(PLAIN, key_length=0, query_length=600),
    ],
    "banded": [
        dataclasses.replace(PLAIN, is_causal=True, falling_logits=True, batch=2),
        dataclasses.replace(PLAIN, window=(130, 7), query_length=600),
        dataclasses.replace(PLAIN, query_length=900, key_length=200, window=(50, 0)),
        dataclasses.replace(PLAIN, batch=2, is_causal=True, query_offset="batch"),
    ],
    "general": [
        dataclasses.replace(
            PLAIN, batch=3, is_causal=True, logits_soft_cap=3.0, lengths="both", segments="packed",
            query_offset="batch", sinks=True, alibi=True, nan_padding=True, parameter_dtype=dtype, falling_logits=True,
        )
        for dtype in ("float32", "bfloat16", "float16", "float64")
    ],
}  # fmt: skip
PLANS = {plan.name: plan for plan in (*forward_plans(), *hopper_plans()) if plan.dtype == "bfloat16"}
LEAST = 0.95
# What is left: branches that were never taken, such as from a wait that found its barrier complete at once back to the
# question, and the clearing of values that stand in other 32nds of a block than the padding of these cases.
EXPLAINED = re.compile(r"@%p\d+ bra |bra\.uni |st\.shared\.v4\.b32 .*\{0, 0, 0, 0\}|(shl|add|or|mul|mad)\.")


@pytest.fixture(scope="module")
def variants() -> dict[str, Variant]:
    folders = [built_forward.built(arch) for arch in built_forward.ARCHITECTURES]
    return {name: variant for folder in folders for name, variant in read_variants(folder).items()}


def unexecuted(variant: Variant, cases: list[Case]) -> tuple[list[str], int]:
    """Returns the statements that no launch executed, and how many there are in all."""
    executed: Any = 0
    for case in cases:
        for ctas in (variant.manifest["cluster"][0], None):
            launched: Launch = launch_of(variant, case, ctas=ctas)
            executed = executed + launched.run(schedule="random", seed=1).executed
    text = variant.kernel.text
    return [text[pc] for pc in np.flatnonzero(executed == 0)], len(text)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_statements_are_executed(variants: dict[str, Variant], plan: Plan) -> None:
    cases = [
        dataclasses.replace(case, head_dim=plan.head_dim, value_head_dim=plan.value_head_dim)
        for case in LAUNCHES[plan.kind]
    ]
    missed, count = unexecuted(variants[plan.name], cases)
    assert len(missed) / count < 1 - LEAST, "\n".join(missed)
    assert [statement for statement in missed if not EXPLAINED.match(statement)] == []
