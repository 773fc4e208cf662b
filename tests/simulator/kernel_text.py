"""Kernels of a few lines: the text around a body, and the line on which a statement stands."""

from __future__ import annotations

from typing import Any

SCHEDULES: list[dict[str, Any]] = [
    {"schedule": "eager"},
    {"schedule": "lazy"},
    *({"schedule": "random", "seed": seed} for seed in range(3)),
]


def schedule_name(options: dict[str, Any]) -> str:
    return " ".join(str(value) for value in options.values())


def kernel(body: str, parameters: str = "", threads: int = 128, target: str = "sm_100a") -> str:
    """A kernel with the registers %p, %h, %r, %f, %l and shared memory `dynamic`, which returns at its end."""
    return f"""\
.version 8.8
.target {target}
.address_size 64
.extern .shared .align 1024 .b8 dynamic[];
.visible .entry kernel({parameters})
.reqntid {threads}, 1, 1
{{
.reg .pred %p<16>; .reg .b16 %h<8>; .reg .b32 %r<64>; .reg .b32 %f<128>; .reg .b64 %l<32>;
{body.strip(chr(10))}
ret;
}}
"""


def line_of(text: str, statement: str) -> int:
    """The number of the only line that contains it."""
    found = [number for number, line in enumerate(text.split("\n"), 1) if statement in line]
    assert len(found) == 1, f"{statement!r} stands on lines {found}"
    return found[0]


def without(text: str, statement: str) -> str:
    """The text with that statement gone; all others stay on their lines."""
    line_of(text, statement)
    return text.replace(statement, "")
