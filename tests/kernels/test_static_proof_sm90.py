"""What the compiler made of each Hopper variant, read from its machine code: memory, registers, products."""

from __future__ import annotations

import json
import re
from pathlib import Path

import built_forward
import pytest
import sass

from jax_fa4.kernels.plan import REGISTERS, SHARED_CAPACITY
from jax_fa4.kernels.sm90.plan import ForwardPlan
from jax_fa4.kernels.variants import hopper_plans

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (built_forward.available() and sass.available()),
        reason="nvidia-cutlass-dsl and nvidia-cuda-nvdisasm, which compile and disassemble, exist for Linux alone",
    ),
]

PLANS = {plan.name: plan for plan in hopper_plans()}
MOST_BYTES = 4_000_000  # in a wheel
RESERVED_SHARED = 1024  # bytes of shared memory that every CTA has beside the 227 KB
MMA_K = 16


@pytest.fixture(scope="module")
def folder() -> Path:
    return built_forward.built("sm_90a")


# For a module, so that the tests of a variant follow each other and it is disassembled once.
@pytest.fixture(scope="module", params=PLANS)
def plan(request: pytest.FixtureRequest) -> ForwardPlan:
    return PLANS[request.param]


@pytest.fixture(scope="module")
def code(plan: ForwardPlan, folder: Path) -> sass.Kernel:
    return sass.disassemble(folder / f"{plan.name}.cubin")


def everything(code: sass.Kernel) -> set[int]:
    return set(range(len(code.instructions)))


# Over blocks with a mask, and whole ones.
LOOPS = {"dense": 1, "banded": 2, "general": 1}


def products_of_a_block(plan: ForwardPlan) -> int:
    return plan.head_dim // MMA_K + plan.block // MMA_K


def test_the_cubins_are_small(folder: Path) -> None:
    assert sum(sass.bytes_without_lines(folder / f"{name}.cubin") for name in PLANS) <= MOST_BYTES


def test_the_manifest_launches_what_was_planned(plan: ForwardPlan, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["architecture"], manifest["minimum_driver"]) == ("sm_90a", 12000)
    row = next(row for row in manifest["variants"] if row["name"] == plan.name)
    assert json.loads(json.dumps(plan.manifest())).items() <= row.items()
    text = (folder / f"{plan.name}.ptx").read_text()
    assert re.findall(r"\.entry (\w+)", text) == [row["entry"]]
    assert re.findall(r"\.reqntid (\d+)", text) == [str(row["threads"])]
    assert row["shared_bytes"] <= SHARED_CAPACITY
    sizes = {section.name: section.size for section in sass.sections(folder / f"{plan.name}.cubin")}
    assert sizes[f".nv.shared.{row['entry']}"] == RESERVED_SHARED


def test_nothing_is_spilled(plan: ForwardPlan, code: sass.Kernel, folder: Path) -> None:
    assert len(everything(code)) > 1000
    local = code.having(everything(code), "LDL") | code.having(everything(code), "STL")
    assert not local, [(hex(sass.BYTES * at), code.instructions[at].opcode) for at in sorted(local)]
    assert sass.stack_bytes(folder / f"{plan.name}.cubin") == 0
    assert not code.having(everything(code), "CALL")


def test_roles_stay_within_their_registers(plan: ForwardPlan, code: sass.Kernel) -> None:
    budgets = {0: REGISTERS // plan.threads} | {role.registers: role.registers for role in plan.roles}
    assert code.parts.keys() == budgets.keys()
    needed = {budget: code.registers(part) for budget, part in code.parts.items()}
    assert all(needed[budget] <= budgets[budget] for budget in budgets), needed


def test_barriers_are_those_of_the_rings(plan: ForwardPlan, code: sass.Kernel) -> None:
    assert code.count(everything(code), "SYNCS.EXCH.64") == sum(ring.barriers for ring in plan.rings)


def test_a_block_of_products(plan: ForwardPlan, code: sass.Kernel) -> None:
    """The loops over key blocks multiply twice; the first scores and the last values stand around them."""
    attend = code.parts[plan.role("attend").registers]
    loops = code.loops(attend, "HGMMA")
    assert len(loops) == LOOPS[plan.kind]
    for loop in loops:
        assert code.count(loop, "HGMMA") == products_of_a_block(plan)
    assert code.count(everything(code), "HGMMA") == (len(loops) + 1) * products_of_a_block(plan)


def test_products_run_under_the_softmax(plan: ForwardPlan, code: sass.Kernel) -> None:
    """ptxas makes products wait one by one where it cannot tell who touches their registers, and moves a wait up."""
    waits = sorted(at for at in everything(code) if code.instructions[at].opcode == "WARPGROUP.DEPBAR.LE")
    for loop in code.loops(code.parts[plan.role("attend").registers], "HGMMA"):
        scores, *values = [at for at in waits if at in loop]
        assert code.instructions[scores].operands == "gsb0, 0x1"
        # For the rescaling, and then for all.
        assert [code.instructions[at].operands for at in values] == ["gsb0, 0x0"] * 2
        exponentials = code.having(loop, "MUFU.EX2")
        assert len(exponentials) >= plan.block // 2
        assert all(scores < at < values[0] for at in exponentials)
    assert len(waits) == 3 * LOOPS[plan.kind] + 2


def test_a_block_of_softmax(plan: ForwardPlan, code: sass.Kernel) -> None:
    """A whole block: of each score a maximum, a multiply-add, an exponential, a sum; of two a conversion."""
    if plan.is_general:
        return  # whole or not, all blocks of these pass through the branches of their features
    *_, loop = code.loops(code.parts[plan.role("attend").registers], "HGMMA")
    scores = plan.block // 2  # of a thread, in two rows
    expected = {
        "MUFU.EX2": scores + 2,  # and the factors of both rows
        "FFMA": scores + 2,
        "FADD": scores,  # of each row one less, and one with what was summed before
        "FMNMX": scores + 5,
        "F2FP": scores // 2,
        "SHFL": 4,
    }
    assert {opcode: code.count(loop, opcode) for opcode in expected} == expected


@pytest.mark.parametrize(
    ("opcode", "operands", "registers"),
    [
        ("HGMMA.64x128x16.F32.BF16", "R88, R152, gdesc[UR16].tnspB, R88", 156),
        ("HGMMA.64x176x16.F32", "R24, gdesc[UR12], RZ, !UPT", 24 + 88),
        ("LDS.128", "R4, [R12]", 16),
        ("STG.E", "desc[UR4][R8.64], R3", 10),
        ("UMOV", "UR31, 0x40000040", 0),
    ],
)
def test_registers_that_an_instruction_names(opcode: str, operands: str, registers: int) -> None:
    """At least: an address of a wide access counts as wide as what is moved."""
    assert sass.named_registers(opcode, operands) == registers
