"""Each wait, arrival, fence and commit of the forward kernel is needed: without it, something is noticed."""

from __future__ import annotations

from typing import Any

import built_forward
import ml_dtypes
import numpy as np
import pytest
from forward_launch import UNBOUNDED, Array, Launch, Variant, device_array, read_variants
from jax_fa4_simulator import Kernel, Result, mutate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not built_forward.available(), reason="nvidia-cutlass-dsl, which compiles the kernels, exists for Linux alone"
    ),
]

# The simulator takes the order that tcgen05.fence makes from the barriers beside it, as kernels in use do, and that a
# load from tensor memory has completed from the use of its registers, before which ptxas puts a wait of its own.
NOT_MODELLED = ("tcgen05.fence", "tcgen05.wait::ld")


@pytest.fixture(scope="module")
def variant() -> Variant:
    return read_variants(built_forward.built("sm_100a"))["jax_fa4_forward_sm100_bfloat16_d128_banded"]


def problem(kernel: Kernel, manifest: dict[str, Any]) -> Launch:
    """One CTA for six tiles with 5, 5, 3, 3, 1 and 1 key blocks: whole, cut and rescaled ones, rings that wrap."""
    generator = np.random.default_rng(0)

    def normal(length: int, heads: int, magnitude: float = 1) -> Array:
        values = magnitude * generator.standard_normal((1, length, heads, 128))
        return device_array(values.astype(ml_dtypes.bfloat16))

    return Launch(Variant(kernel, manifest), normal(700, 2, 6), normal(640, 1), normal(640, 1),
                  band=(-UNBOUNDED, -128), ctas=1, section=2)  # fmt: skip


def test_every_mutant_is_caught_or_explained(variant: Variant) -> None:
    wanted = problem(variant.kernel, variant.manifest)
    wanted.run()

    def launch(kernel: Kernel, **options: Any) -> tuple[Result, Launch]:
        made = problem(kernel, variant.manifest)
        return made.run(raise_on_report=False, **options), made

    def check(made: Launch) -> None:
        np.testing.assert_array_equal(made.output.view(np.uint16), wanted.output.view(np.uint16))
        np.testing.assert_array_equal(made.log_sum_exp, wanted.log_sum_exp)

    verdicts = mutate.mutate(mutate.Case("forward", variant.kernel, launch, check), seeds=3, jobs=1)
    assert len(verdicts) > 100
    alive = [verdict.mutant for verdict in verdicts if verdict.caught_by is None]
    # The load role's waits, last in the text: keys, both queries, values; then keys and values of each block. Query
    # tiles are handed back together, after all scores of a tile: the second wait, and that for the slot where the last
    # keys were, find what the first found.
    waits = [verdict.mutant for verdict in verdicts if "mbarrier.try_wait" in verdict.mutant.statement][-6:]
    explained = {waits[2].pc, waits[3].pc}
    unexplained = [
        mutant for mutant in alive if mutant.pc not in explained and not mutant.statement.startswith(NOT_MODELLED)
    ]
    assert unexplained == [], "\n".join(map(str, unexplained))
