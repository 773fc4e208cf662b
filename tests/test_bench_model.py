"""The speed on paper: its counts agree with arithmetic and with what the simulator executes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import built_forward
import ml_dtypes
import numpy as np
import pytest

from jax_fa4.kernels.variants import forward_plans

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(Path(__file__).parent / "kernels")]

import machine_code  # noqa: E402
import model  # noqa: E402
import published  # noqa: E402
import units  # noqa: E402
from forward_launch import Launch, device_array, read_variants  # noqa: E402

if not built_forward.available():
    pytest.skip("nvidia-cutlass-dsl, which compiles the kernels, is not installed", allow_module_level=True)

# float16 differs by its conversions alone.
PLANS = {plan.name: plan for plan in forward_plans() if plan.dtype == "bfloat16"}
DENSE = "jax_fa4_forward_sm100_bfloat16_d128_dense"


@pytest.fixture(scope="module")
def folder() -> Path:
    return built_forward.built("sm_100a")


@pytest.fixture(scope="module")
def roles(folder: Path) -> dict[str, units.Roles]:
    """The loops of each variant."""
    text = {name: machine_code.disassemble(folder / f"{name}.cubin") for name in PLANS}
    return {name: units.roles_of(machine_code.Program(code)) for name, code in text.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_counts_agree_with_arithmetic(roles: dict[str, units.Roles], name: str) -> None:
    plan = PLANS[name]
    block = units.block_of(roles[name], plan)
    value_head_dim = plan.value_head_dim
    assert block.tensor == 4 * (plan.head_dim + value_head_dim)
    products = units.tensor_products(roles[name].mma, plan)
    assert (products.from_shared, products.from_tmem) == (2 * plan.head_dim // 16, 2 * 128 // 16)
    assert block.exponentials == 128 * (128 * (16 - plan.polynomial) // 16 + 1)
    assert block.tmem_bytes == 128 * 128 * (4 + 2)
    # Operands, and a factor for each row that is written once and read once.
    assert block.shared >= 2 * plan.head_dim + value_head_dim + 8


@pytest.mark.parametrize("name", PLANS)
def test_limit_is_the_busiest_unit(roles: dict[str, units.Roles], name: str) -> None:
    block = units.block_of(roles[name], PLANS[name])
    assert block.busy[block.limit] == max(block.busy.values())
    assert 0 < block.share_of_peak <= 1
    assert (block.share_of_peak == 1) == (block.limit == "tensor")
    assert block.instructions < block.issue


def executed(variant: Any, keys: int) -> Callable[[str], int]:
    """Runs one tile over so many keys; returns how often warps executed statements that begin with a prefix."""
    generator = np.random.default_rng(0)

    def normal(length: int) -> Any:
        return device_array(generator.standard_normal((1, length, 1, 128)).astype(ml_dtypes.bfloat16))

    result = Launch(variant, normal(256), normal(keys), normal(keys)).run()
    return lambda prefix: sum(
        int(count)
        for text, count in zip(result.kernel.text, result.executed, strict=True)
        if re.sub(r"^@!?%p\d+\s+", "", text).startswith(prefix)
    )


def test_a_turn_is_what_one_more_block_executes(folder: Path, roles: dict[str, units.Roles]) -> None:
    """Machine code against PTX: with one more block of keys each of eight softmax warps makes one turn more."""
    variant = read_variants(folder)[DENSE]
    few, more = executed(variant, 256), executed(variant, 384)
    loops = roles[DENSE]
    for prefix, opcode, loop, warps in (
        ("tcgen05.mma", "UTCHMMA", loops.mma, 1),
        ("tcgen05.commit", "UTCBAR", loops.mma, 1),
        ("cp.async.bulk.tensor", "UTMALDG", loops.load, 1),
        ("ex2.approx", "MUFU.EX2", loops.softmax, 8),
        ("tcgen05.ld", "LDTM", loops.softmax, 8),
        ("tcgen05.st", "STTM", loops.softmax, 8),
        ("st.shared", "STS", loops.softmax, 8),
        ("ld.shared", "LDS", loops.correction, 4),
    ):
        assert more(prefix) - few(prefix) == warps * loop.count(opcode) > 0, opcode


@pytest.mark.parametrize("dims", published.COUNTED)
def test_a_description_leaves_things_out_and_adds_none(dims: tuple[int, int]) -> None:
    described, counted = published.described(*dims).busy, published.COUNTED[dims].busy
    assert all(described[unit] <= counted[unit] for unit in described)
    assert all(described[unit] == counted[unit] for unit in ("tensor", "mufu"))


def block(tensor: float, mufu: float, issue: float) -> units.Block:
    return units.Block(tensor, mufu, 0, 0, 0, issue, exponentials=0, tmem_bytes=0, instructions=0, spills=0)


@pytest.mark.parametrize(
    ("blocks", "best"),
    [
        ({0: block(500, 1000, 300), 2: block(500, 900, 400), 4: block(500, 800, 900)}, 2),
        ({0: block(1000, 1100, 300), 2: block(1000, 900, 400), 4: block(1000, 800, 500)}, 4),
        ({0: block(1000, 900, 500), 2: block(1000, 890, 500)}, 0),
    ],
    ids=["busiest", "busiest_beside_the_tensor_core", "smallest_of_equals"],
)
def test_best_share(blocks: dict[int, units.Block], best: int) -> None:
    assert model.best_share(blocks) == best
    assert model.verdict(blocks).startswith(f"best: {best} of 16")


def test_an_instruction_of_no_known_unit_is_named() -> None:
    unknown = machine_code.Instruction("FROB.X2", "R1, R2", False, ())
    with pytest.raises(ValueError, match=r"FROB\.X2 belongs to no unit: add it"):
        units.lane_operations([unknown])


# An outer loop around one with a wait that may have to be repeated, an optional part, and a part for one lane.
CONTROL_FLOW = """
        /*0000*/                   MOV R0, 0x1 ;
.L_x_0:
        /*0010*/                   IADD3 R0, R0, 0x1, RZ ;
.L_x_1:
        /*0020*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R3 ;
        /*0030*/              @!P0 BRA `(.L_x_5) ;
.L_x_2:
        /*0040*/                   BRA.U UP0, `(.L_x_3) ;
        /*0050*/                   FMUL R1, R1, R2 ;
.L_x_3:
        /*0060*/               @P1 BRA `(.L_x_4) ;
        /*0070*/                   UTCHMMA tmem[UR1], gdesc[UR2], tmem[UR3], tmem[UR4], idesc[UR5], UPT ;
.L_x_4:
        /*0080*/                   BRA.U UP1, `(.L_x_1) ;
        /*0090*/               @P2 BRA `(.L_x_0) ;
        /*00a0*/                   EXIT ;
.L_x_5:
        /*00b0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R3 ;
        /*00c0*/              @!P0 BRA `(.L_x_5) ;
        /*00d0*/                   BRA `(.L_x_2) ;
"""


def test_a_turn_does_the_purpose_of_the_loop_and_else_little() -> None:
    program = machine_code.Program(CONTROL_FLOW)
    assert len(program.loops) == 3
    (loop,) = program.innermost(lambda loop: loop.count("UTCHMMA") > 0)
    assert [one.name for one in loop.turn] == ["SYNCS", "BRA", "BRA", "BRA", "UTCHMMA", "BRA"]


def test_the_tool_runs(folder: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "model.py"), "--built", str(folder), "--markdown", DENSE]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = {cells[1].strip(): cells[2:] for cells in (line.split("|") for line in lines) if len(cells) > 2}
    assert [cell.strip() for cell in rows[DENSE][:1]] == ["1024"]
    assert any(label.startswith("FlashAttention-4 d128") for label in rows)
