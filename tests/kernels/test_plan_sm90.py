"""Hopper's plans as plain data: nothing overlaps, nothing is larger than the machine, boxes are what rings count on."""

import math

import pytest

from jax_fa4.kernels.parts import WARP, overlapping
from jax_fa4.kernels.plan import REGISTERS, SHARED_CAPACITY
from jax_fa4.kernels.sm90.plan import QUERY_ROWS, ForwardPlan
from jax_fa4.kernels.variants import HOPPER_TILES, forward_parameters, forward_plans, hopper_plans

PLANS = {plan.name: plan for plan in hopper_plans()}
each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


@each_plan
def test_memory_and_registers_fit(plan: ForwardPlan) -> None:
    assert not overlapping(plan.shared)
    assert plan.shared_bytes <= SHARED_CAPACITY
    assert sum(role.registers * role.warps * WARP for role in plan.roles) <= REGISTERS
    # setmaxnreg gives what was given back: all of it is in the pool that the CTA started with.
    assert plan.threads % 128 == 0 and plan.registers[1] < REGISTERS // plan.threads < plan.registers[0]


@each_plan
def test_what_a_thread_holds_fits_its_registers(plan: ForwardPlan) -> None:
    """Scores, weights of two to a word, and the output, and some for all else."""
    held = QUERY_ROWS * (plan.block + plan.block // 2 + plan.value_head_dim) // 128
    assert held + 24 <= plan.registers[0]


@each_plan
def test_operand_tiles_start_where_the_swizzle_pattern_does(plan: ForwardPlan) -> None:
    tiles = [region for region in plan.shared if region.name in ("q", "k", "v", "out")]
    assert len(tiles) == (3 if plan.output_over_query else 4)
    for region in tiles:
        assert region.offset % 1024 == 0
    assert plan.query_bytes % 1024 == plan.keys.panel_bytes % 1024 == plan.values.panel_bytes % 1024 == 0


@each_plan
def test_boxes_are_what_the_rings_count_on(plan: ForwardPlan) -> None:
    maps = {parameter.name: parameter.describe() for parameter in forward_parameters(plan)[:4]}
    panels = {
        "query": plan.query_bytes // plan.panels(plan.head_dim), "key": plan.keys.panel_bytes,
        "value": plan.values.panel_bytes,
    }  # fmt: skip
    for name, size in panels.items():
        columns, *rows = maps[name]["box"]  # type: ignore[misc]
        assert columns * math.prod(rows) * 2 == size
        assert maps[name]["swizzle"] == f"{columns * 2}B"
    columns, *rows = maps["output"]["box"]  # type: ignore[misc]
    assert columns * math.prod(rows) * plan.output_bytes == plan.panel_bytes
    assert plan.values.panels * plan.value_panel == plan.value_head_dim
    assert plan.values.row_bytes == plan.value_row


@each_plan
def test_an_output_tile_passes_in_whole_parts(plan: ForwardPlan) -> None:
    columns = plan.output_tile_bytes // plan.panel_bytes * plan.output_panel
    assert plan.output_parts * columns >= plan.value_head_dim > (plan.output_parts - 1) * columns
    assert plan.output_tile_bytes <= plan.output_pitch


def test_every_kind_has_one_tile_and_names_are_different() -> None:
    rows = [(row.head_dim, kind) for row in HOPPER_TILES for kind in row.kinds]
    assert len(rows) == len(set(rows)) == 5 * 3
    names = [plan.name for plan in (*forward_plans(), *hopper_plans())]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head_dim": 80}, "head_dim 80 with values of 128: one of"),
        ({"kind": "sparse"}, "kind 'sparse': one of dense, banded, general"),
        ({"output": "float16"}, "output 'float16': float32, or empty"),
        ({"dtype": "float32"}, "dtype 'float32': one of bfloat16, float16"),
        ({"registers": (248, 32)}, "registers: 67584 of 65536"),
        ({"registers": (236, 32)}, "multiples of 8"),
        ({"query_tiles": 4}, "4 query tiles: 1 to 3"),
        ({"block": 200}, "blocks of 200 keys: a multiple of 16"),
        ({"block": 80, "kind": "general"}, "blocks of 80 keys: a multiple of 16, in general variants of 32"),
        ({"block": 256}, "1 slots for keys and for values"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ForwardPlan(**changes)  # type: ignore[arg-type]
