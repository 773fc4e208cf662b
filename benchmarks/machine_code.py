"""The loops of a compiled kernel, and which of their instructions one turn executes."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DISASSEMBLER = "nvidia-cuda-nvdisasm"
LABEL = re.compile(r"^(\.L_x_\d+):")
STATEMENT = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*)$")
TARGET = re.compile(r"\.L_x_\d+")
# What nobody takes a way around, if there is one: the work itself and the arrivals that hand it over.
PURPOSE = ("UTCHMMA", "UTCBAR", "UTMALDG", "SYNCS.ARRIVE")


@dataclass(frozen=True)
class Instruction:
    """A machine instruction; `opcode` has its modifiers, `operands` are text."""

    opcode: str
    operands: str
    is_conditional: bool
    targets: tuple[str, ...]

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.split(".")[0]

    @property
    def is_branch(self) -> bool:
        """Whether control may go elsewhere than to the next instruction."""
        return self.name in ("BRA", "BRX", "EXIT", "RET")

    @property
    def falls_through(self) -> bool:
        """Whether the next instruction may be the next to run."""
        return not self.is_branch or self.is_conditional


@dataclass(frozen=True)
class Loop:
    """A loop: its first block, all its blocks, and the instructions that one turn executes."""

    header: int
    body: frozenset[int]
    turn: tuple[Instruction, ...]

    def count(self, *prefixes: str) -> int:
        """Instructions of a turn whose opcodes begin with any of these."""
        return sum(instruction.opcode.startswith(prefixes) for instruction in self.turn)


def disassembler() -> Path:
    """The program of the package nvidia-cuda-nvdisasm."""
    files = importlib.metadata.files(DISASSEMBLER) or []
    for file in files:
        if file.name == "nvdisasm":
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{DISASSEMBLER} is installed without nvdisasm: install it again")


def disassemble(cubin: Path) -> str:
    """The machine code of a cubin as text."""
    return subprocess.run([disassembler(), "-c", cubin], check=True, capture_output=True, text=True).stdout


class Program:
    """Basic blocks, and what control flow there is between them."""

    def __init__(self, text: str) -> None:
        instructions, labels = _parse(text)
        starts = sorted({0, *labels.values(), *(i + 1 for i, one in enumerate(instructions) if one.is_branch)})
        starts = [start for start in starts if start < len(instructions)]
        block_of = {start: number for number, start in enumerate(starts)}
        self.blocks = [
            tuple(instructions[start:end]) for start, end in zip(starts, [*starts[1:], len(instructions)], strict=True)
        ]
        self.successors: list[list[int]] = []
        for number, block in enumerate(self.blocks):
            following = [block_of[labels[target]] for target in block[-1].targets if labels[target] in block_of]
            if block[-1].falls_through and number + 1 < len(self.blocks):
                following.append(number + 1)
            self.successors.append(following)

    @functools.cached_property
    def dominators(self) -> list[set[int]]:
        """Of each block the blocks that lie on every way to it; none where there is no way."""
        order = self._reachable()
        predecessors: dict[int, list[int]] = {number: [] for number in order}
        for number in order:
            for following in self.successors[number]:
                predecessors[following].append(number)
        found = [set(order) if number in predecessors else set() for number in range(len(self.blocks))]
        found[0] = {0}
        is_changing = True
        while is_changing:
            is_changing = False
            for number in order[1:]:
                common = set.intersection(*(found[before] for before in predecessors[number])) | {number}
                is_changing |= common != found[number]
                found[number] = common
        return found

    @functools.cached_property
    def loops(self) -> list[Loop]:
        """All loops; in a turn of one that contains others, each of these is left at once."""
        return [Loop(header, frozenset(body), self._turn(header, body)) for header, body in self._bodies().items()]

    def innermost(self, wanted: Callable[[Loop], bool]) -> list[Loop]:
        """The loops that are wanted and contain no other such loop."""
        found = [loop for loop in self.loops if wanted(loop)]
        return [loop for loop in found if not any(one is not loop and one.header in loop.body for one in found)]

    def _bodies(self) -> dict[int, set[int]]:
        """Natural loops: by header the blocks from which a way back to it leads that does not leave the loop."""
        before: list[list[int]] = [[] for _ in self.blocks]
        for number in self._reachable():
            for following in self.successors[number]:
                before[following].append(number)
        bodies: dict[int, set[int]] = {}
        for number in self._reachable():
            for header in self.successors[number]:
                if header in self.dominators[number]:
                    body = bodies.setdefault(header, {header})
                    waiting = [number]
                    while waiting:
                        one = waiting.pop()
                        if one not in body:
                            body.add(one)
                            waiting += before[one]
        return bodies

    def _turn(self, header: int, body: set[int]) -> tuple[Instruction, ...]:
        """The way round that does all of the loop's purpose and else as little as possible."""

        @functools.cache
        def best(number: int) -> tuple[int, int, tuple[int, ...]] | None:
            block = self.blocks[number]
            purpose = sum(one.opcode.startswith(PURPOSE) for one in block)
            ways = []
            for following in self.successors[number]:
                if following == header:
                    ways.append((0, 0, ()))
                elif following in body and following not in self.dominators[number]:
                    ways.append(best(following))  # type: ignore[arg-type]
            possible = [way for way in ways if way is not None]
            if not possible:
                return None
            most, least, path = max(possible, key=lambda way: way[:2])
            return most + purpose, least - len(block), (number, *path)

        found = best(header)
        assert found is not None, "a loop has a way round"
        return tuple(one for number in found[2] for one in self.blocks[number])

    def _reachable(self) -> list[int]:
        """Blocks that control can get to, in reverse postorder."""
        seen, order = {0}, []
        stack = [(0, iter(self.successors[0]))]
        while stack:
            number, following = stack[-1]
            new = next((one for one in following if one not in seen), None)
            if new is None:
                order.append(number)
                stack.pop()
            else:
                seen.add(new)
                stack.append((new, iter(self.successors[new])))
        return order[::-1]


def _parse(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """The statements in order, and the number of the statement that each label stands before."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif statement := STATEMENT.match(line):
            predicate, opcode, operands = statement.group(2), statement[3], statement[4].rstrip(" ;")
            is_branch = opcode.startswith(("BRA", "BRX"))
            instructions.append(
                Instruction(
                    opcode,
                    operands,
                    # A uniform branch has its condition as an operand.
                    bool(predicate) or (is_branch and not operands.startswith("`") and not opcode.startswith("BRX")),
                    tuple(TARGET.findall(operands)) if is_branch else (),
                )
            )
    return instructions, labels
