"""What the compiler made of each variant, read from its machine code: memory, registers, what limits speed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import built_forward
import pytest
import sass

from jax_fa4.kernels.plan import REGISTERS, SHARED_CAPACITY
from jax_fa4.kernels.sm100.plan import QUERY_TILES, TILE, TMEM_COLUMNS, ForwardPlan
from jax_fa4.kernels.variants import forward_plans

needs_tools = pytest.mark.skipif(
    not (built_forward.available() and sass.available()),
    reason="nvidia-cutlass-dsl and nvidia-cuda-nvdisasm, which compile and disassemble kernels, exist for Linux alone",
)

PLANS = {plan.name: plan for plan in forward_plans()}

MOST_VARIANTS, MOST_BYTES = 48, 6_000_000  # in a wheel
RESERVED_SHARED = 1024  # bytes of shared memory that every CTA has beside the 227 KB
MMA_K = 16


@dataclass(frozen=True)
class Made:
    """A variant and what became of it."""

    plan: ForwardPlan
    cubin: Path
    code: sass.Kernel

    @property
    def all(self) -> set[int]:
        """All instructions."""
        return set(range(len(self.code.instructions)))

    def part(self, role: str) -> set[int]:
        """The code that runs with a role's registers: that of the role, and of those that have as many."""
        return self.code.parts[self.plan.role(role).registers]

    def count(self, part: set[int], opcode: str) -> int:
        return self.code.count(part, opcode)

    def columns(self, part: set[int], opcode: str) -> int:
        return self.code.columns(part, opcode)


@pytest.fixture(scope="module")
def folder() -> Path:
    return built_forward.built("sm_100a")


# For a module, so that the tests of a variant follow each other and it is disassembled once.
@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in PLANS])
def made(request: pytest.FixtureRequest, folder: Path) -> Made:
    cubin = folder / f"{request.param}.cubin"
    return Made(PLANS[request.param], cubin, sass.disassemble(cubin))


def test_the_wheel_has_few_variants() -> None:
    assert len(PLANS) <= MOST_VARIANTS


@needs_tools
def test_the_cubins_are_small(folder: Path) -> None:
    assert sum(sass.bytes_without_lines(folder / f"{name}.cubin") for name in PLANS) <= MOST_BYTES


@needs_tools
def test_the_manifest_launches_what_was_planned(made: Made) -> None:
    manifest = json.loads((made.cubin.parent / "manifest.json").read_text())
    row: dict[str, Any] = next(row for row in manifest["variants"] if row["name"] == made.plan.name)
    assert json.loads(json.dumps(made.plan.manifest())).items() <= row.items()
    text = made.cubin.with_suffix(".ptx").read_text()
    assert re.findall(r"\.entry (\w+)", text) == [row["entry"]]
    assert re.findall(r"\.reqntid (\d+)", text) == [str(row["threads"])]
    assert row["shared_bytes"] <= SHARED_CAPACITY
    assert max(region.end for region in made.plan.tmem) <= TMEM_COLUMNS
    sizes = {section.name: section.size for section in sass.sections(made.cubin)}
    assert sizes[f".nv.shared.{row['entry']}"] == RESERVED_SHARED


@needs_tools
def test_nothing_is_spilled(made: Made) -> None:
    assert len(made.all) > 1000
    local = made.code.having(made.all, "LDL") | made.code.having(made.all, "STL")
    assert not local, [(hex(sass.BYTES * at), made.code.instructions[at].opcode) for at in sorted(local)]
    assert sass.stack_bytes(made.cubin) == 0
    # What is called are the compiler's own traps for wrong use of tensor memory; parts of a kernel leave calls out.
    called = {made.code.instructions[at].operands for at in made.code.having(made.all, "CALL")}
    assert all("tcgen05_guardrail_trap" in name for name in called), called


@needs_tools
def test_roles_stay_within_their_registers(made: Made) -> None:
    budgets = {0: REGISTERS // made.plan.threads} | {role.registers: role.registers for role in made.plan.roles}
    assert made.code.parts.keys() == budgets.keys()
    needed = {budget: made.code.registers(part) for budget, part in made.code.parts.items()}
    assert all(needed[budget] <= budgets[budget] for budget in budgets), needed


@needs_tools
def test_barriers_are_those_of_the_rings(made: Made) -> None:
    assert made.count(made.all, "SYNCS.EXCH.64") == sum(ring.barriers for ring in made.plan.rings)
    assert {made.code.instructions[at].operands for at in made.code.having(made.all, "BAR")} == {"0x0"}


def softmax_counts(plan: ForwardPlan) -> dict[str, int]:
    """Instructions that a thread's row of 128 scores takes, by opcode; a row is worked on as pairs."""
    pairs, general = TILE // 2, plan.kind == "general"
    polynomials = pairs * plan.polynomial // 16
    scaled = pairs if general else 0  # before a cap, a slope or a mask, not together with subtracting the reference
    capped = scaled  # tanh as a polynomial of degree 11 near 0, and as a quotient of exponentials beyond
    return {
        # Exponentials that are not polynomials; the factor that rescales what was summed before; those of tanh.
        "MUFU.EX2": 2 * (pairs - polynomials) + 1 + (TILE if general else 0),
        # A score minus the reference; a polynomial, and the fraction that it is of.
        "FFMA2": pairs - scaled + polynomials * (plan.degree + 1) + 6 * capped,
        "FMUL2": scaled + 6 * capped,
        # The sum of all pairs; rounding down for a polynomial, which takes two.
        "FADD2": pairs - 1 + scaled + polynomials * 2 + capped,
        # The maximum of the row and the reference, two more numbers at a time; the bound of a polynomial.
        "FMNMX3": pairs - 1,
        "FMNMX": 2 + 2 * polynomials,
        "F2FP": pairs,
    }


@needs_tools
def test_a_block_of_softmax(made: Made) -> None:
    """Each of the loops over key blocks: those with a mask and whole ones; in general variants all have a mask."""
    bodies = made.code.loops(made.part("softmax"), "LDTM")
    assert len(bodies) == (1 if made.plan.kind == "general" else 2)
    expected = softmax_counts(made.plan)
    for body in bodies:
        assert {opcode: made.count(body, opcode) for opcode in expected} == expected
        assert made.columns(body, "LDTM") == TILE
        assert made.columns(body, "STTM") == TILE // 2


@needs_tools
def test_a_block_of_tensor_core_instructions(made: Made) -> None:
    """The loop over key blocks multiplies for both query tiles; the first scores and the last values stand around."""
    (body,) = made.code.loops(made.part("mma"), "UTCHMMA")
    block = QUERY_TILES * (made.plan.head_dim // MMA_K + TILE // MMA_K)
    assert made.count(body, "UTCHMMA") == block
    assert made.count(made.part("mma"), "UTCHMMA") == made.count(made.all, "UTCHMMA") == 2 * block


@needs_tools
def test_a_block_of_correction(made: Made) -> None:
    """In the loop over key blocks both accumulators are rescaled; behind it they are read once more, normalised."""
    role = made.part("correction")
    (body,) = made.code.loops(role, "STTM")
    columns = QUERY_TILES * made.plan.value_head_dim
    assert made.columns(body, "LDTM") == made.columns(body, "STTM") == made.columns(role, "STTM") == columns
    assert made.columns(role, "LDTM") == 2 * columns
    assert made.count(body, "FMUL2") == columns // 2
    assert made.count(role, "FMUL2") == columns


TEXT = """
                                                            // | # 0123 |
f:
        /*0000*/        MOV R0, RZ ;                        // | 1 ^    |
        /*0010*/        USETMAXREG.DEALLOC 0x18 ;           // | 1 :    |
.L_outer:
        /*0020*/        ISETP P0, PT, R0, RZ ;              // | 1 :    |
.L_inner:
        /*0030*/        MUFU.EX2 R2, R0 ;                   // | 2 : ^  |
        /*0040*/   @!P0 BRA `(.L_retry) ;                   // | 1 :    |
.L_on:
        /*0050*/    @P0 BRA `(.L_inner) ;                   // | 1 :    |
        /*0060*/        LDL R3, [R1] (*"SpillRefill"*);     // | 2 :  ^ |
        /*0070*/        BRA.U UP0, `(.L_outer) ;            // | 1 :    |
        /*0080*/        USETMAXREG.DEALLOC 0x10 ;           // | 1 :    |
        /*0090*/        MOV R1, RZ ;                        // | 1  ^   |
        /*00a0*/        EXIT ;                              // |        |
.L_retry:
        /*00b0*/        NOP ;                               // | 1 :    |
        /*00c0*/        BRA `(.L_on) ;                      // | 1 :    |
"""


def test_reading_machine_code() -> None:
    """Parts follow control, also to code that was moved away; the inner of two loops is the one that counts."""
    made = sass.parse(TEXT)
    assert made.parts == {0: {0}, 0x18: {2, 3, 4, 5, 6, 7, 11, 12}, 0x10: {9, 10}}
    assert {registers: made.registers(found) for registers, found in made.parts.items()} == {0: 1, 0x18: 4, 0x10: 2}
    assert made.loops(made.parts[0x18], "MUFU") == [{3, 4, 5, 11, 12}]
    assert made.having(range(13), "LDL") == {6}
    assert made.loops(made.parts[0x18], "ISETP") == [{2, 3, 4, 5, 6, 7, 11, 12}]
    assert made.count(range(13), "BRA") == 4 and made.count(range(13), "BRA.U") == 1
    with pytest.raises(ValueError, match="no table of all registers"):
        sass.parse(TEXT.replace("0123", "0134"))
    with pytest.raises(ValueError, match="an instruction before this one was not understood"):
        sass.parse(TEXT.replace("MUFU", "?"))
    with pytest.raises(ValueError, match="BRX R0: a branch whose targets are not in the text"):
        _ = sass.parse(TEXT.replace("NOP ", "BRX R0 ")).parts
