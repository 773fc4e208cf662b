"""The kernel that is written around a single instruction: it brings registers and memory in and takes them out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coverage import single_instruction

THREADS = 128
CELL = 16  # bytes of one lane's register in the frame's memory


@dataclass
class Register:
    """A register of each lane: a value, or (with `count`) a short vector as wide as the register."""

    name: str
    dtype: np.dtype[Any]
    count: tuple[int, ...]
    value: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        self.size = self.dtype.itemsize * math.prod(self.count)
        if not self.predicate and self.size not in (2, 4, 8, 16):
            raise ValueError(f"register %{self.name} would have {self.size} bytes; registers have 2, 4, 8 or 16")

    @property
    def predicate(self) -> bool:
        """One bit a lane."""
        return self.dtype == np.bool_

    @property
    def declaration(self) -> str:
        """As PTX."""
        return f".reg .{'pred' if self.predicate else f'b{8 * self.size}'} %{self.name};"

    def load(self, cell: str) -> str:
        """Statements that bring it in."""
        if self.predicate:
            return f"ld.global.b32 %_word, {cell}; setp.ne.b32 %{self.name}, %_word, 0;"
        if self.size == 16:
            return f"ld.global.v2.b64 {{%_low, %_high}}, {cell}; mov.b128 %{self.name}, {{%_low, %_high}};"
        return f"ld.global.b{8 * self.size} %{self.name}, {cell};"

    def store(self, cell: str) -> str:
        """Statements that take it out."""
        if self.predicate:
            return f"selp.b32 %_word, 1, 0, %{self.name}; st.global.b32 {cell}, %_word;"
        if self.size == 16:
            return f"mov.b128 {{%_low, %_high}}, %{self.name}; st.global.v2.b64 {cell}, {{%_low, %_high}};"
        return f"st.global.b{8 * self.size} {cell}, %{self.name};"

    def fill(self, cells: NDArray[np.uint8]) -> None:
        """Writes its value, if it has one, into (lanes, CELL) bytes."""
        if self.value is not None:
            cells[:, : self.size] = self.value.reshape(len(cells), -1).view(np.uint8)

    def read(self, cells: NDArray[np.uint8]) -> NDArray[Any]:
        """(lanes,) or (lanes, n) of its dtype, from (lanes, CELL) bytes."""
        values: NDArray[Any] = np.ascontiguousarray(cells[:, : self.size]).view(self.dtype).reshape(-1, *self.count)
        return values


def shared_frame() -> tuple[str, str]:
    """Lines that fill shared memory from global memory, and those that take it back."""
    loop = """
mov.b32 %_word, %_thread;
_{0}:
setp.ge.s32 %_other, %_word, %_words;
@%_other bra _{0}_end;
mul.wide.s32 %_offset, %_word, 4;
add.s64 %_address, %_image, %_offset;
shl.b32 %_place, %_word, 2;
add.s32 %_place, %_place, %shared;
{1}
add.s32 %_word, %_word, 128;
bra _{0};
_{0}_end:"""
    start = "ld.param.b64 %_image, [_image];\nld.param.b32 %_words, [_words];"
    fill = loop.format("fill", "ld.global.b32 %_r0, [%_address];\nst.shared.b32 [%_place], %_r0;")
    take = loop.format("take", "ld.shared.b32 %_r0, [%_place];\nst.global.b32 [%_address], %_r0;")
    return f"{start}{fill}\nfence.proxy.async.shared::cta;\nbar.sync 0;", take


def tensor_frame(columns: int, slot: int) -> tuple[str, str]:
    """Lines that allocate tensor memory and fill it from global memory, and those that take it back and free it."""
    fours = [f"{{%_r{i}, %_r{i + 1}, %_r{i + 2}, %_r{i + 3}}}" for i in range(0, 32, 4)]
    cells = [f"[%_address+{16 * i}]" for i in range(8)]
    vector = "{" + ", ".join(f"%_r{i}" for i in range(32)) + "}"
    loop = """
ld.param.b64 %_address, [_tensor];
mul.wide.s32 %_offset, %_thread, {1};
add.s64 %_address, %_address, %_offset;
and.b32 %_place, %_thread, 96;
shl.b32 %_place, %_place, 16;
add.s32 %_place, %_place, %tmem;
mov.b32 %_word, 0;
_{0}:
{2}
add.s32 %_place, %_place, 32;
add.s64 %_address, %_address, 128;
add.s32 %_word, %_word, 32;
setp.lt.s32 %_other, %_word, {3};
@%_other bra _{0};
{4}
tcgen05.fence::before_thread_sync;
bar.sync 0;
tcgen05.fence::after_thread_sync;"""
    store = [f"ld.global.v4.b32 {four}, {cell};" for four, cell in zip(fours, cells, strict=True)]
    store.append(f"tcgen05.st.sync.aligned.32x32b.x32.b32 [%_place], {vector};")
    load = [f"tcgen05.ld.sync.aligned.32x32b.x32.b32 {vector}, [%_place];", "tcgen05.wait::ld.sync.aligned;"]
    load += [f"st.global.v4.b32 {cell}, {four};" for four, cell in zip(fours, cells, strict=True)]
    fill = f"""setp.ge.s32 %_other, %_thread, 32;
@%_other bra _allocated;
tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%shared+{slot}], {columns};
tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;
_allocated:
tcgen05.fence::before_thread_sync;
bar.sync 0;
tcgen05.fence::after_thread_sync;
ld.shared.b32 %tmem, [%shared+{slot}];"""
    fill += loop.format("tfill", 4 * columns, "\n".join(store), columns, "tcgen05.wait::st.sync.aligned;")
    take = "tcgen05.fence::before_thread_sync;\nbar.sync 0;\ntcgen05.fence::after_thread_sync;"
    take += loop.format("ttake", 4 * columns, "\n".join(load), columns, "")
    take += f"""
setp.ge.s32 %_other, %_thread, 32;
@%_other bra _freed;
tcgen05.dealloc.cta_group::1.sync.aligned.b32 %tmem, {columns};
_freed:"""
    return fill, take


def frame(
    text: str,
    registers: list[Register],
    lanes: int,
    warp: int | None,
    target: str,
    below: int,
    around: list[tuple[str, str]],
) -> tuple[str, range]:
    """The kernel around a text, and the lines that the text has in it.

    around: what is done before and after the text. below: bytes of shared memory before %scratch.
    """
    cells = [f"[%_cell+{i * lanes * CELL}]" for i in range(len(registers))]
    head = f""".version 8.8
.target {target}
.address_size 64
.extern .shared .align 1024 .b8 _dynamic[];
.visible .entry {single_instruction}(
.param .u64 _cells, .param .u64 _image, .param .u32 _words, .param .u64 _tensor)
.reqntid {THREADS}, 1, 1
{{
.reg .pred %_other;
.reg .b32 %_thread, %_warp, %_word, %_words, %_place, %shared, %scratch, %tmem, %_r<32>;
.reg .b64 %_cell, %_offset, %_address, %_image, %_low, %_high;
{chr(10).join(register.declaration for register in registers)}
mov.u32 %_thread, %tid.x;
mov.b32 %shared, _dynamic;
add.s32 %scratch, %shared, {below};
{chr(10).join(before for before, _ in around)}
shr.u32 %_warp, %_thread, 5;
setp.ne.s32 %_other, %_warp, {warp if warp is not None else -1};
{"@%_other bra _after;" if warp is not None else ""}
and.b32 %_warp, %_thread, {lanes - 1};
mul.wide.s32 %_offset, %_warp, {CELL};
ld.param.b64 %_cell, [_cells];
add.s64 %_cell, %_cell, %_offset;
{chr(10).join(register.load(cell) for register, cell in zip(registers, cells, strict=True))}
{"@!%_active bra _store;" if any(register.name == "_active" for register in registers) else ""}
{{
"""
    tail = f"""
}}
_store:
{chr(10).join(register.store(cell) for register, cell in zip(registers, cells, strict=True))}
_after:
{"bar.sync 0;" if around else ""}
{chr(10).join(after for _, after in around)}
ret;
}}
"""
    first = head.count("\n") + 1
    return head + text + tail, range(first, first + text.count("\n") + 1)
