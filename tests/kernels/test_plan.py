"""Plans as plain data: nothing overlaps, nothing is larger than the machine."""

import math
import subprocess
import sys

import pytest

from jax_fa4.kernels.parts import WARP, Region, overlapping
from jax_fa4.kernels.plan import REGISTERS, SHARED_CAPACITY
from jax_fa4.kernels.sm100.plan import PANEL_BYTES, TMEM_COLUMNS, ForwardPlan
from jax_fa4.kernels.variants import forward_parameters, forward_plans

PLANS = {plan.name: plan for plan in forward_plans()}
each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def test_overlap_is_found() -> None:
    a, b, c = Region("a", 0, 8), Region("b", 8, 8), Region("c", 15, 4)
    assert overlapping((a, b, c)) == [("b", "c")]


@each_plan
def test_memory_and_registers_fit(plan: ForwardPlan) -> None:
    assert not overlapping(plan.shared)
    assert not overlapping(plan.tmem)
    assert plan.shared_bytes <= SHARED_CAPACITY
    assert max(region.end for region in plan.tmem) <= TMEM_COLUMNS
    assert sum(role.registers * role.warps * WARP for role in plan.roles) <= REGISTERS


@each_plan
def test_operand_tiles_start_where_the_swizzle_pattern_does(plan: ForwardPlan) -> None:
    tiles = [region for region in plan.shared if region.name in ("q", "kv", "k", "v", "out")]
    assert len(tiles) == 3
    for region in tiles:
        assert region.offset % 1024 == 0


@each_plan
def test_a_block_of_keys_and_values_fits_its_rings(plan: ForwardPlan) -> None:
    sizes = {region.name: region.extent for region in plan.shared}
    slots = {ring.name: ring.slots for ring in plan.rings}
    for stream in (plan.keys, plan.values):
        assert sizes[stream.region] == slots[stream.ring] * stream.tile_bytes
    uses = sorted((stream.ring, stream.use(block)) for stream in (plan.keys, plan.values) for block in range(3))
    assert len(set(uses)) == 6


@each_plan
def test_weights_lie_in_scores_that_have_been_read(plan: ForwardPlan) -> None:
    regions = {region.name: region for region in plan.tmem}
    for i in (0, 1):
        assert regions[f"s{i}"].offset < plan.column("p", i)
        assert plan.column("p", i) + 128 * 2 // 4 == regions[f"s{i}"].end


@each_plan
def test_warpgroups_have_one_register_count(plan: ForwardPlan) -> None:
    registers = [role.registers for role in plan.roles for _ in range(role.warps)]
    assert len(registers) == plan.threads // WARP
    for first in range(0, len(registers), 4):
        assert len(set(registers[first : first + 4])) == 1


@each_plan
def test_boxes_are_what_the_rings_count_on(plan: ForwardPlan) -> None:
    maps = {parameter.name: parameter.describe()["box"] for parameter in forward_parameters(plan)[:4]}
    panels = {"query": PANEL_BYTES, "key": plan.keys.panel_bytes, "value": plan.values.panel_bytes}
    for name, size in panels.items():
        columns, *rows = maps[name]  # type: ignore[misc]
        assert columns * math.prod(rows) * 2 == size
    assert plan.query_bytes % PANEL_BYTES == 0
    columns, *rows = maps["output"]  # type: ignore[misc]
    assert columns * math.prod(rows) * plan.output_bytes == PANEL_BYTES


@each_plan
def test_an_output_tile_passes_in_whole_parts(plan: ForwardPlan) -> None:
    columns = plan.output_tile_bytes // PANEL_BYTES * plan.output_panel
    assert plan.output_parts * columns >= plan.value_head_dim > (plan.output_parts - 1) * columns
    assert plan.output_tile_bytes <= plan.output_pitch


def test_names_are_different() -> None:
    assert len({plan.name for plan in forward_plans()}) == len(forward_plans())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head_dim": 80}, "head_dim 80 with values of 128: one of"),
        ({"kind": "sparse"}, "kind 'sparse': one of dense, banded, general"),
        ({"output": "float16"}, "output 'float16': float32, or empty"),
        ({"dtype": "float32"}, "dtype 'float32': one of bfloat16, float16"),
        ({"softmax_registers": 208}, "registers: 69632 of 65536"),
        ({"correction_registers": 76}, "multiples of 8"),
        ({"head_parts": 5}, "head_parts 5: 1 to 4"),
        ({"ctas": 2, "kind": "banded"}, "2 CTAs for jax_fa4_forward_sm100_bfloat16_d128_banded_2cta: 1, or 2 in dense"),
        ({"ctas": 2, "head_dim": 96, "value_head_dim": 96}, "2 CTAs for .*: 1, or 2 in dense variants, with"),
        ({"ctas": 4}, "4 CTAs for "),
        ({"polynomial": 3}, "polynomial 3: an even number up to 16"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ForwardPlan(**changes)  # type: ignore[arg-type]


def test_data_needs_no_compiler() -> None:
    code = "import sys, jax_fa4.kernels.variants; print([name for name in sys.modules if name.startswith('cutlass')])"
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
