"""What a block of scores costs: clocks that it keeps each unit of a multiprocessor busy, counted from machine code.

A block is 128 queries x 128 keys of one head, the work of one turn of a softmax warpgroup. Steady state: a block that
needs no mask where a variant has a loop for such, rows that keep their references, and no wait that is repeated.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from machine_code import Instruction, Loop, Program

TILE = 128
QUERY_TILES = 2
MMA_K = 16  # elements of the summed extent that one tensor-core instruction takes
OPERAND_BYTES = 2  # of bfloat16 and float16
WARP = 32
SCHEDULERS = 4  # of a multiprocessor, each issuing one instruction of a warp a clock; warp w belongs to w % 4
TENSOR_FLOPS = 8192  # a clock, dense, 16 bits
SHARED_BYTES = 128  # a clock
PER_LANE = re.compile(r"\[[^]]*\bR\d")  # an address with a register of the lanes, not a uniform one

# Lanes a clock. MUFU and FMA from the published analysis of FlashAttention-4. The ALU's, which instruction runs where,
# and that packed operations count twice, as do integer multiply-adds, of which only half of the FMA unit is capable:
# from microbenchmarks that others published for sm_103. Maxima of three are taken to be as fast as those of two.
LANES = {"MUFU": 16, "FMA": 128, "ALU": 64}
SLOTS = {
    "MUFU": {"MUFU": 1},
    "FMA": dict.fromkeys(("FFMA", "FADD", "FMUL", "FHADD", "FHFMA"), 1)
    | dict.fromkeys(("FFMA2", "FADD2", "FMUL2", "HFMA2", "HADD2", "HMUL2", "IMAD"), 2),
    "ALU": dict.fromkeys(
        ("F2FP", "FMNMX", "FMNMX3", "FSEL", "FSET", "FSETP", "I2FP", "IABS", "IADD", "IADD3", "ISETP", "LEA", "LOP3",
         "MOV", "P2R", "PLOP3", "PRMT", "R2P", "SEL", "SGXT", "SHF", "VIADD", "VIADDMNMX", "VIMNMX", "VIMNMX3", "VOTE"),
        1,
    ),
}  # fmt: skip
# These only take an issue slot here. Uniform ones (U...) run beside the lanes' units.
OTHER = (
    "BAR", "BMOV", "BRA", "BRX", "BSSY", "BSYNC", "CALL", "DEPBAR", "ELECT", "FENCE", "LDC", "LDCU", "LDG", "LDL",
    "LDS", "LDTM", "MEMBAR", "NOP", "R2UR", "S2R", "S2UR", "STG", "STL", "STS", "STTM", "SYNCS", "WARPSYNC",
)  # fmt: skip


@dataclass(frozen=True)
class Roles:
    """One turn of each role's loop over key blocks."""

    softmax: Loop
    correction: Loop
    mma: Loop
    load: Loop


def roles_of(program: Program) -> Roles:
    """Finds the loops by what only they do. Of the softmax there are two, with a mask and, shorter, without."""

    def shortest(role: str, loops: list[Loop]) -> Loop:
        if not loops:
            raise ValueError(f"no loop over key blocks was found for {role}: units.py looks for what it no longer does")
        return min(loops, key=lambda loop: len(loop.turn))

    half_the_row = TILE // 2
    return Roles(
        shortest("softmax", program.innermost(lambda loop: loop.count("MUFU.EX2") >= half_the_row)),
        shortest(
            "correction",
            program.innermost(
                lambda loop: (
                    bool(loop.count("LDS") and loop.count("SYNCS.ARRIVE")) and not loop.count("MUFU", "UTCHMMA")
                )
            ),
        ),
        shortest("mma", program.innermost(lambda loop: loop.count("UTCHMMA") > 0)),
        shortest("load", program.innermost(lambda loop: loop.count("UTMALDG") > 0)),
    )


@dataclass(frozen=True)
class Block:
    """Clocks of one multiprocessor for one block, by unit, and what they come from.

    exponentials: operations of the special function unit. tmem_bytes: what tcgen05.ld and tcgen05.st move.
    instructions: of one softmax warp, which has 32 rows; spills: those of them that go to local memory.
    """

    tensor: float
    mufu: float
    fma: float
    alu: float
    shared: float
    issue: float
    exponentials: int
    tmem_bytes: int
    instructions: int
    spills: int

    @property
    def busy(self) -> dict[str, float]:
        """Clocks by the unit's name."""
        names = ("tensor", "mufu", "fma", "alu", "shared", "issue")
        return {name: getattr(self, name) for name in names}

    @property
    def limit(self) -> str:
        """The unit that is busy longest; the tensor core if several are."""
        return max(self.busy, key=lambda name: self.busy[name])

    @property
    def share_of_peak(self) -> float:
        """Of the tensor core's peak, if all units work side by side without a gap."""
        return self.tensor / self.busy[self.limit]


def block_of(roles: Roles, plan: Any) -> Block:
    """Counts one block; a turn of the MMA, load and correction loops serves as many as it multiplies P for."""
    products = tensor_products(roles.mma, plan)
    blocks = products.from_tmem * MMA_K // TILE
    lanes: defaultdict[str, float] = defaultdict(float)
    for loop, warps, turns in (
        (roles.softmax, 4, 1), (roles.correction, 4, blocks), (roles.mma, 1, blocks), (roles.load, 1, blocks),
    ):  # fmt: skip
        for what, amount in lane_operations(loop.turn).items():
            lanes[what] += amount * warps * WARP / turns
    issue = {scheduler: float(len(roles.softmax.turn)) for scheduler in range(SCHEDULERS)}
    for role, loop in (("correction", roles.correction), ("mma", roles.mma), ("load", roles.load)):
        first, warps = plan.role(role).first_warp, plan.role(role).warps
        for warp in range(first, first + warps):
            issue[warp % SCHEDULERS] += len(loop.turn) / blocks
    return Block(
        tensor=products.clocks / blocks,
        mufu=lanes["MUFU"] / LANES["MUFU"],
        fma=lanes["FMA"] / LANES["FMA"],
        alu=lanes["ALU"] / LANES["ALU"],
        shared=(products.shared_bytes / blocks + lanes["shared_bytes"]) / SHARED_BYTES,
        issue=max(issue.values()),
        exponentials=round(lanes["MUFU"]),
        tmem_bytes=round(lanes["tmem_bytes"]),
        instructions=len(roles.softmax.turn),
        spills=roles.softmax.count("LDL", "STL"),
    )


@dataclass(frozen=True)
class TensorProducts:
    """The tensor-core instructions of a turn: with A in shared memory (scores) and in tensor memory (P V)."""

    from_shared: int
    from_tmem: int
    clocks: float
    shared_bytes: float


def tensor_products(mma: Loop, plan: Any) -> TensorProducts:
    """128 x n x 16 an instruction and CTA: n = 128 keys for scores, the values' head_dim for P V."""
    instructions = [one for one in mma.turn if one.name == "UTCHMMA"]
    from_tmem = sum(one.operands.startswith("tmem") for one in instructions)
    from_shared = len(instructions) - from_tmem
    # Of two CTAs that multiply together each brings its own rows of A, and half of B.
    ctas = 2 if any(".2CTA" in one.opcode for one in instructions) else 1
    columns = from_shared * TILE + from_tmem * plan.value_head_dim
    return TensorProducts(
        from_shared,
        from_tmem,
        clocks=2 * TILE * MMA_K * columns / TENSOR_FLOPS,
        shared_bytes=(from_shared * TILE + columns / ctas) * MMA_K * OPERAND_BYTES,
    )


def lane_operations(turn: Iterable[Instruction]) -> Counter[str]:
    """Slots of one lane by unit, and its bytes to and from shared and tensor memory."""
    found: Counter[str] = Counter()
    for one in turn:
        units = {unit: slots[one.name] for unit, slots in SLOTS.items() if one.name in slots}
        if not units and one.name not in OTHER and not one.name.startswith("U"):
            raise ValueError(f"{one.opcode} belongs to no unit: add it to SLOTS or OTHER in units.py")
        found.update(units)
        if one.name in ("LDS", "STS"):
            found["shared_bytes"] += 4 * shared_words(one)
        if one.name in ("LDTM", "STTM"):
            found["tmem_bytes"] += 4 * next(int(m[1:]) for m in one.opcode.split(".") if m[0] == "x")
    return found


def shared_words(access: Instruction) -> int:
    """Words of 4 bytes for each lane. One place that all lanes read takes a clock, as a word for each of them does."""
    if not PER_LANE.search(access.operands):
        return 1
    return next((int(part) // 32 for part in access.opcode.split(".") if part in ("64", "128")), 1)
