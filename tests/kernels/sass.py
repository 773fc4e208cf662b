"""The machine code of a cubin: its instructions, what control can reach, loops, and the registers that each part needs.

Which warps run an instruction is told from the flow of control: a role sets its registers (USETMAXREG) before its
program, so what can be reached from there, up to where they are set again, runs with that many. That holds wherever the
compiler has put the code: it moves what is rarely run, such as the retries of a wait, to the end.
"""

from __future__ import annotations

import importlib.metadata
import re
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

DISASSEMBLER = "nvidia-cuda-nvdisasm"
INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]+)\*/\s+(?:@(!?\w+)\s+)?([A-Z]\S*)\s*(.*?)\s*;.*")
BYTES = 16  # of an instruction
LABEL = re.compile(r"(\S+):\s*(?://.*)?")
TARGET = re.compile(r"`\(([^)]+)\)")
NUMBERS = re.compile(r"// \|\s+# (\d+)")  # last digits of the registers' numbers, above a column for each
LISTED = re.compile(r'"BRANCH_TARGETS ([^"]+)"')  # what the disassembler has found out of a computed branch
COMPUTED = ("BRX", "BRXU", "JMX", "JMXU")
# Nothing follows these unless a predicate or an operand makes them conditional.
ENDS = ("EXIT", "RET", "BRA", "KILL", *COMPUTED)
SETS_REGISTERS = "USETMAXREG"

ELF_HEADERS, SECTION_HEADER = 512, 64  # bytes; the first with up to 8 program headers
NO_BITS = 8  # the type of a section that takes nothing in the file
# Attributes in sections .nv.info: one byte says the attribute's form, the next which it is.
ABI_VERSION, FIRST_FOLLOWED = 8, 8  # the byte of an ELF file that says its form, and the first that is followed
WIDTHS = {".128": 4, ".64": 2}  # registers that an operand of a memory access stands for
WITH_PAYLOAD, FRAME_BYTES, STACK_BYTES = 4, 0x11, 0x12


@dataclass(frozen=True)
class Instruction:
    """One instruction; `registers` is one more than the highest register that is alive, written or named here."""

    predicate: str
    opcode: str
    operands: str
    registers: int

    def successors(self, at: int, labels: dict[str, int]) -> Iterator[int]:
        """The numbers of the instructions that may come next; called functions are left out."""
        base = self.opcode.split(".")[0]
        listed = LISTED.search(self.operands)
        if base in COMPUTED and listed is None:
            raise ValueError(f"{self.opcode} {self.operands}: a branch whose targets are not in the text")
        targets = listed[1].split(",") if listed else TARGET.findall(self.operands)
        if base not in ("RET", "CALL"):
            yield from (labels[name] for name in targets)
        conditional = self.predicate or (base == "BRA" and not self.operands.startswith("`"))
        if base not in ENDS or conditional:
            yield at + 1


@dataclass(frozen=True)
class Kernel:
    """The code of a cubin; a part of it is a set of the numbers of its instructions."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]

    @cached_property
    def successors(self) -> list[list[int]]:
        """What may come after each instruction."""
        end = len(self.instructions)
        return [
            [after for after in one.successors(at, self.labels) if after < end]
            for at, one in enumerate(self.instructions)
        ]

    @cached_property
    def predecessors(self) -> list[list[int]]:
        """What may come before each instruction."""
        found: list[list[int]] = [[] for _ in self.instructions]
        for at, after in enumerate(self.successors):
            for one in after:
                found[one].append(at)
        return found

    @cached_property
    def parts(self) -> dict[int, set[int]]:
        """What runs with how many registers a thread; 0: with those it starts with."""
        setters = {at for at, one in enumerate(self.instructions) if one.opcode.startswith(SETS_REGISTERS)}
        others = set(range(len(self.instructions))) - setters
        found = {0: {0} | reached(0, self.successors, others)}
        for at in setters:
            registers = int(self.instructions[at].operands.split(",")[-1], 16)
            found[registers] = found.get(registers, set()) | reached(at, self.successors, others)
        return found

    def registers(self, part: Iterable[int]) -> int:
        """How many registers a thread needs there, outside of calls: those have an ABI's, used or not."""
        return max(self.instructions[at].registers for at in set(part) - self.having(part, "CALL"))

    def having(self, part: Iterable[int], opcode: str) -> set[int]:
        """The instructions of that opcode, with any modifiers after it."""
        return {at for at in part if f"{self.instructions[at].opcode}.".startswith(f"{opcode}.")}

    def count(self, part: Iterable[int], opcode: str) -> int:
        """How many instructions of that opcode there are."""
        return len(self.having(part, opcode))

    def columns(self, part: Iterable[int], opcode: str) -> int:
        """How many columns of tensor memory LDTM.xN or STTM.xN move there."""
        return sum(int(self.instructions[at].opcode.split(".x")[1]) for at in self.having(part, opcode))

    def loops(self, part: set[int], opcode: str) -> list[set[int]]:
        """The innermost of the loops that have the opcode, in the order of the text."""
        found, left = [], self.having(part, opcode)
        while left:
            at = left.pop()
            loop = reached(at, self.successors, part) & reached(at, self.predecessors, part)
            if at in loop:
                entries = {one for one in loop if any(before not in loop for before in self.predecessors[one])}
                found += self.loops(loop - {min(entries)}, opcode) or [loop]
                left -= loop
        return sorted(found, key=min)


def reached(start: int, neighbours: list[list[int]], within: set[int]) -> set[int]:
    """What can be come to from `start`; itself only if it can be come back to."""
    seen: set[int] = set()
    ends = [start]
    while ends:
        for other in neighbours[ends.pop()]:
            if other in within and other not in seen:
                seen.add(other)
                ends.append(other)
    return seen


def available() -> bool:
    """Whether the disassembler is installed."""
    try:
        importlib.metadata.version(DISASSEMBLER)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def disassemble(cubin: Path) -> Kernel:
    """Returns the code of a cubin, which has one kernel."""
    files = importlib.metadata.files(DISASSEMBLER) or []
    tool = next(str(file.locate()) for file in files if file.stem == "nvdisasm")
    # Of files in the older form, such as those for sm_90, the disassembler does not follow what is alive.
    follows = cubin.read_bytes()[ABI_VERSION] >= FIRST_FOLLOWED
    alive = ["--print-life-ranges", "--life-range-mode", "narrow"] if follows else []
    command = [tool, "--print-code", *alive, str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return parse(text) if follows else read_code(text, lambda line, match: named_registers(match[3], match[4]))


def parse(text: str) -> Kernel:
    """Reads the disassembler's text, where a table beside each instruction marks the registers that are alive."""
    numbers = re.search(NUMBERS, text)
    if numbers is None or any(int(digit) != number % 10 for number, digit in enumerate(numbers[1])):
        raise ValueError("the disassembly has no table of all registers")
    first, count = numbers.start(1) - text.rindex("\n", 0, numbers.start(1)) - 1, len(numbers[1])
    return read_code(text, lambda line, match: len(line[first : first + count].rstrip()))


def read_code(text: str, registers: Callable[[str, re.Match[str]], int]) -> Kernel:
    """Reads the disassembler's text; `registers` tells those of an instruction from its line."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if match := INSTRUCTION.fullmatch(line):
            if int(match[1], 16) != BYTES * len(instructions):
                raise ValueError(f"an instruction before this one was not understood: {line.strip()}")
            instructions.append(Instruction(match[2] or "", match[3], match[4], registers(line, match)))
        elif match := LABEL.fullmatch(line):
            labels[match[1]] = len(instructions)
    return Kernel(tuple(instructions), labels)


def named_registers(opcode: str, operands: str) -> int:
    """One more than the highest register that an instruction names; a name may stand for several in a row."""
    product = re.match(r"HGMMA\.64x(\d+)x16", opcode)
    wide = next((width for suffix, width in WIDTHS.items() if suffix in opcode), 1)
    found = 0
    for place, name in enumerate(re.finditer(r"\bR(\d+)(\.64)?", operands)):
        width = (int(product[1]) // 2 if place == 0 else 4) if product else 2 if name[2] else wide
        found = max(found, int(name[1]) + width)
    return found


@dataclass(frozen=True)
class Section:
    """A section of an ELF file; `size` is that in memory, and `content` is empty where the file has none of it."""

    name: str
    size: int
    alignment: int
    content: bytes


def sections(cubin: Path) -> list[Section]:
    """Returns the sections of a cubin."""
    image = cubin.read_bytes()
    (table,) = struct.unpack_from("<Q", image, 40)
    header_size, count, names = struct.unpack_from("<HHH", image, 58)
    headers = [struct.unpack_from("<IIQQQQIIQ", image, table + header_size * i) for i in range(count)]
    found = []
    for name, kind, _, _, offset, size, _, _, alignment in headers:
        start = headers[names][4] + name
        content = b"" if kind == NO_BITS else image[offset : offset + size]
        found.append(Section(image[start : image.index(b"\0", start)].decode(), size, alignment, content))
    return found


def stack_bytes(cubin: Path) -> int:
    """Returns the largest stack frame or stack that a function of the cubin is said to need."""
    info = b"".join(section.content for section in sections(cubin) if section.name.startswith(".nv.info"))
    found, at = [], 0
    while at < len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == WITH_PAYLOAD:
            if attribute in (FRAME_BYTES, STACK_BYTES):
                found.append(struct.unpack_from("<II", info, at)[1])  # after the function's index
            at += value
    return max(found)


def bytes_without_lines(cubin: Path) -> int:
    """Returns the bytes that a cubin takes without line information, or more: the largest padding of each section."""
    kept = [section for section in sections(cubin) if not re.search("debug_(line|ptx)", section.name)]
    return ELF_HEADERS + sum(SECTION_HEADER + section.alignment + len(section.content) for section in kept)
