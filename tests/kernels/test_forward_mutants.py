"""Each wait, arrival, fence and commit of the forward kernel is needed: without it, something is noticed."""

from __future__ import annotations

import functools
import re
from collections import Counter
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
TRY_WAIT = "mbarrier.try_wait"
NOT_MODELLED = ("tcgen05.fence", "tcgen05.wait::ld")


@pytest.fixture(scope="module")
def variants() -> dict[str, Variant]:
    """The variants for all architectures, by what their names end with."""
    folders = [built_forward.built(arch) for arch in built_forward.ARCHITECTURES]
    found = {name: variant for folder in folders for name, variant in read_variants(folder).items()}
    return {name.removeprefix("jax_fa4_forward_"): variant for name, variant in found.items()}


def normal(length: int, heads: int, head_dim: int = 128, magnitude: float = 1) -> Array:
    generator = np.random.default_rng([length, heads])
    values = magnitude * generator.standard_normal((1, length, heads, head_dim))
    return device_array(values.astype(ml_dtypes.bfloat16))


def banded(kernel: Kernel, manifest: dict[str, Any], head_dim: int = 128, **changes: Any) -> Launch:
    """One CTA for nine tiles with 3, 1 and no key blocks: whole, cut and rescaled ones, rings that wrap."""
    query, key, value = normal(700, 3, head_dim, 6), normal(640, 3, head_dim), normal(640, 3)
    return Launch(Variant(kernel, manifest), query, key, value, band=(-UNBOUNDED, -384), ctas=1, section=3, **changes)


def general(kernel: Kernel, manifest: dict[str, Any], head_dim: int = 128) -> Launch:
    """Likewise, with two segments, and padding of NaN between keys and values."""
    ids = {"query_segment_ids": np.arange(700) > 650, "key_value_segment_ids": np.arange(640) > 200}
    optional = {name: device_array(owner.astype(np.int32)[None]) for name, owner in ids.items()}
    optional["sinks"] = device_array(np.asarray([0.5, -1, 0], np.float32))
    launch = banded(kernel, manifest, head_dim, soft_cap=9.0, optional=optional)
    for padding in (slice(90, 120), slice(250, 258)):
        optional["key_value_segment_ids"][:, padding] = -1
        launch.key[:, padding], launch.value[:, padding] = np.nan, np.nan
    return launch


def wide(kernel: Kernel, manifest: dict[str, Any]) -> Launch:
    """Likewise with wide queries, whose place the output takes, and an output in two parts."""
    return general(kernel, manifest, 192)


def pair(kernel: Kernel, manifest: dict[str, Any], queries: int, keys: int) -> Launch:
    """A pair of CTAs for all tiles."""
    arrays = normal(queries, 2, magnitude=6), normal(keys, 2), normal(keys, 2)
    return Launch(Variant(kernel, manifest), *arrays, ctas=2, section=2)


# Tiles of five blocks, of one, and of none.
PAIRS = [functools.partial(pair, queries=queries, keys=keys) for queries, keys in ((600, 620), (1100, 100), (600, 0))]


def hopper(
    kernel: Kernel, manifest: dict[str, Any], queries: int, keys: int, high: int, head_dim: int = 128,
    has_segments: bool = False,
) -> Launch:  # fmt: skip
    """One CTA for all tiles."""
    key, value = normal(keys, 1, head_dim), normal(keys, 1)
    optional: dict[str, Array] = {}
    if has_segments:
        ids = {"query_segment_ids": np.arange(queries) > 200, "key_value_segment_ids": np.arange(keys) > 150}
        optional = {name: device_array(owner.astype(np.int32)[None]) for name, owner in ids.items()}
        optional["sinks"] = device_array(np.asarray([0.5], np.float32))
        for padding in (slice(90, 120), slice(250, 258)):
            optional["key_value_segment_ids"][:, padding] = -1
            key[:, padding], value[:, padding] = np.nan, np.nan
    return Launch(
        Variant(kernel, manifest), normal(queries, 1, head_dim, 6), key, value, band=(-UNBOUNDED, high), ctas=1,
        optional=optional,
    )  # fmt: skip


# Tiles of up to three blocks, of one, and of none; then of many.
BANDED_TILES = [functools.partial(hopper, queries=390, keys=640, high=-130),
                functools.partial(hopper, queries=130, keys=1000, high=700)]  # fmt: skip
WIDE_TILES = [functools.partial(each, head_dim=192, has_segments=True) for each in BANDED_TILES]

# What survives, by its opcode; each is a wait, or what belongs to one, that finds what another has found.
# All: the load role waits for query tiles to be handed back one by one; they are handed back together, after all scores
#   of a tile, which also says that the slot is free where the tile's last keys were.
# general: that values are clean says that they are there, at either place where they are awaited.
# wide: the output takes the queries' place, so nothing of a tile begins before the output of the one before has left:
#   the waits for `inverse` and `q` to be handed back, and what orders the reading of `inverse` before that, find it so.
#   An output has two parts, and the epilogue takes the four of both query tiles in turn: with its second part a query
#   tile waits for what its own first part would wait for on the next visit. `room` is handed back by the load role,
#   which is ahead of the epilogue in all these schedules; that it need not be is what the dry run reports.
# pair: a CTA that is not the leader must not exit before the last commits to its barriers, which is not modelled.
# sm90, banded: the last turn is taken so that its barrier does not end half full, which does no harm.
# sm90, general: that values are clean says that they are there, at either place; and the first keys of a tile wait for
#   a slot that was handed back before the one which the last values of the tile before have waited for.
SURVIVORS = {
    "sm100_bfloat16_d128_banded": ([banded], {TRY_WAIT: 2}),
    "sm100_bfloat16_d128_general": ([general], {TRY_WAIT: 4}),
    "sm100_bfloat16_d192v128_general_float32": ([wide], {TRY_WAIT: 13, "bar.warp.sync": 2}),
    "sm100_bfloat16_d128_dense_2cta": (PAIRS, {TRY_WAIT: 10}),
    "sm90_bfloat16_d128_banded": (BANDED_TILES, {"bar.sync": 1}),
    "sm90_bfloat16_d192v128_general_float32": (WIDE_TILES, {TRY_WAIT: 3}),
}


@pytest.mark.parametrize("name", SURVIVORS)
def test_every_mutant_is_caught_or_explained(variants: dict[str, Variant], name: str) -> None:
    problems, survivors = SURVIVORS[name]
    variant = variants[name]
    wanted = [problem(variant.kernel, variant.manifest) for problem in problems]
    for one in wanted:
        one.run()

    def launch(kernel: Kernel, **options: Any) -> tuple[Result, list[Launch]]:
        made = [problem(kernel, variant.manifest) for problem in problems]
        result = made[0].run(raise_on_report=False, **options)
        for one in made[1:]:
            if result.reports or result.failed:
                break
            executed, result = result.executed, one.run(raise_on_report=False, **options)
            result.executed[:] += executed
        return result, made

    def check(made: list[Launch]) -> None:
        for one, other in zip(made, wanted, strict=True):
            np.testing.assert_array_equal(one.output.view(np.uint8), other.output.view(np.uint8))
            np.testing.assert_array_equal(one.log_sum_exp, other.log_sum_exp)

    verdicts = mutate.mutate(mutate.Case("forward", variant.kernel, launch, check), seeds=3, jobs=1)
    alive = [verdict for verdict in verdicts if verdict.caught_by is None]
    print(f"{name}: {len(verdicts) - len(alive)} of {len(verdicts)} caught")
    assert len(verdicts) > 60
    assert all(verdict.executed for verdict in alive)
    left = [mutant for verdict in alive if not (mutant := verdict.mutant).statement.startswith(NOT_MODELLED)]
    opcodes = Counter(re.sub(r"^(mbarrier\.try_wait)\.\S+", r"\1", mutant.statement).split()[0] for mutant in left)
    assert opcodes == survivors, "\n".join(map(str, left))
