"""Plans as plain data: nothing overlaps, nothing is larger than the machine."""

import subprocess
import sys

import pytest

from jax_fa4.kernels.sm100.plan import REGISTERS, SHARED_CAPACITY, TMEM_COLUMNS, WARP, ForwardPlan, Region, overlapping
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
    for region in plan.shared[:3]:
        assert region.offset % 1024 == 0


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
    maps = [parameter for parameter in forward_parameters(plan) if parameter.name in ("query", "key", "value")]
    for parameter in maps:
        columns, *_, rows, _ = parameter.describe()["box"]  # type: ignore[misc]
        assert columns * rows * 2 * plan.panels == plan.tile_bytes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head_dim": 80}, "head_dim 80: 64 or 128"),
        ({"dtype": "float32"}, "dtype 'float32': one of bfloat16, float16"),
        ({"softmax_registers": 208}, "registers: 69632 of 65536"),
        ({"correction_registers": 76}, "multiples of 8"),
        ({"head_parts": 5}, "head_parts 5: 1 to 4"),
        ({"polynomial": 3}, "polynomial 3: an even number up to 16"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ForwardPlan(**changes)  # type: ignore[arg-type]


def test_data_needs_no_compiler() -> None:
    code = "import sys, jax_fa4.kernels.variants; print([name for name in sys.modules if name.startswith('cutlass')])"
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
