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
def variants() -> dict[str, Variant]:
    return read_variants(built_forward.built("sm_100a"))


def normal(length: int, heads: int, head_dim: int = 128, magnitude: float = 1) -> Array:
    generator = np.random.default_rng([length, heads])
    values = magnitude * generator.standard_normal((1, length, heads, head_dim))
    return device_array(values.astype(ml_dtypes.bfloat16))


def banded(kernel: Kernel, manifest: dict[str, Any]) -> Launch:
    """One CTA for six tiles with 5, 5, 3, 3, 1 and 1 key blocks: whole, cut and rescaled ones, rings that wrap."""
    return Launch(Variant(kernel, manifest), normal(700, 2, magnitude=6), normal(640, 2), normal(640, 2),
                  band=(-UNBOUNDED, -128), ctas=1, section=2)  # fmt: skip


def general(kernel: Kernel, manifest: dict[str, Any]) -> Launch:
    """Likewise, with padding of NaN in keys and values and two segments."""
    query, key, value = normal(700, 2, magnitude=6), normal(640, 2), normal(640, 2)
    segments = {"query_segment_ids": 700, "key_value_segment_ids": 640}
    optional = {
        name: device_array((np.arange(length) > 400).astype(np.int32)[None]) for name, length in segments.items()
    }
    key[:, 600:], value[:, 600:] = np.nan, np.nan
    optional["key_value_segment_ids"][:, 600:] = -1
    optional["sinks"] = device_array(np.asarray([0.5, -1], np.float32))
    return Launch(Variant(kernel, manifest), query, key, value, band=(-UNBOUNDED, -128), ctas=1, section=2,
                  soft_cap=9.0, optional=optional)  # fmt: skip


def wide(kernel: Kernel, manifest: dict[str, Any]) -> Launch:
    """Likewise with wide queries, whose place the output takes, and an output in two parts."""
    return Launch(Variant(kernel, manifest), normal(700, 2, 192, 6), normal(640, 2, 192), normal(640, 2),
                  band=(-UNBOUNDED, -128), ctas=1, section=2)  # fmt: skip


@pytest.mark.parametrize(("name", "problem"), [
    ("d128_banded", banded), ("d128_general", general), ("d192v128_general_float32", wide),
])  # fmt: skip
def test_every_mutant_is_caught_or_explained(variants: dict[str, Variant], name: str, problem: Any) -> None:
    variant = variants[f"jax_fa4_forward_sm100_bfloat16_{name}"]
    wanted = problem(variant.kernel, variant.manifest)
    wanted.run()

    def launch(kernel: Kernel, **options: Any) -> tuple[Result, Launch]:
        made = problem(kernel, variant.manifest)
        return made.run(raise_on_report=False, **options), made

    def check(made: Launch) -> None:
        np.testing.assert_array_equal(made.output.view(np.uint8), wanted.output.view(np.uint8))
        np.testing.assert_array_equal(made.log_sum_exp, wanted.log_sum_exp)

    verdicts = mutate.mutate(mutate.Case("forward", variant.kernel, launch, check), seeds=3, jobs=1)
    assert len(verdicts) > 100
    alive = [verdict.mutant for verdict in verdicts if verdict.caught_by is None]
    print(f"{name}: {len(verdicts) - len(alive)} of {len(verdicts)} caught")
    # The load role's waits, last in the text: keys, both queries, values; then keys and values of each block. Query
    # tiles are handed back together, after all scores of a tile: the second wait, and that for the slot where the last
    # keys were, find what the first found.
    waits = [verdict.mutant for verdict in verdicts if "mbarrier.try_wait" in verdict.mutant.statement][-6:]
    explained = {waits[2].pc, waits[3].pc}
    unexplained = [
        mutant for mutant in alive if mutant.pc not in explained and not mutant.statement.startswith(NOT_MODELLED)
    ]
    assert unexplained == [], "\n".join(map(str, unexplained))
