"""Malformed PTX: kernels of the other tests with words changed, through parser, binder and a short run.

Whatever the text, there is an Error in words, or a run with or without reports: no crash, no hang, nothing out of
bounds (the same test runs under sanitizers).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from jax_fa4_simulator import Error, Kernel, empty, rows, spellings
from test_checks_barriers import TWINS as BARRIERS
from test_checks_exit import TWINS as EXIT
from test_checks_memory import TWINS as MEMORY
from test_checks_races import TWINS as RACES
from twins import Twin

TWINS = [*BARRIERS, *EXIT, *MEMORY, *RACES]
WORD = re.compile(r"[%.\w$]+(?:::\w+[\w.:]*)?|[^\s\w]")
_JUNK = """
{ } [ ] < > ! | @ _ - + , ; : . :: " /* // 0 1 -1 16 31 32 63 255 4096 65535 0x7FFF0000 4294967280 4294967295
0xFFFFFFFFFFFFFFF0 -9223372036854775808 18446744073709551616 0f7FC00000 1.5e3 %r1 %r3 %l0 %p0 %h0 %f0 %tid.x %laneid
%r<3> .reg .b8 .b32 .b128 .pred .shared .param dynamic data map ret; bra
"""
JUNK = _JUNK.split()
OPCODES = [opcode for row in range(len(rows())) for opcode in spellings(row)[:3]]


def _kind(word: str) -> str:
    """Words of one kind stand in each other's place."""
    if not word:
        return ""
    if word[0] == "%":
        return word[:2]
    return "number" if word[0].isdigit() else "name" if word[0].isalpha() else word


def _changed(text: str, draw: random.Random) -> str:
    start = max(text.find("{\n"), 0) if draw.random() < 0.9 else 0
    spans = [match.span() for match in WORD.finditer(text, start)] or [(0, 0)]
    begin, end = draw.choice(spans)
    other = draw.choice(spans)
    choice = draw.randrange(8)
    if choice < 3:  # by one of its kind
        same = [span for span in spans if _kind(text[slice(*span)]) == _kind(text[begin:end])]
        return text[:begin] + text[slice(*draw.choice(same))] + text[end:]
    if choice == 3:
        return text[:begin] + draw.choice(JUNK) + text[end:]
    if choice == 4:
        return text[:begin] + text[slice(*other)] + " " + text[begin:]
    if choice == 5:  # a line is lost, or comes twice
        lines = text.split("\n")
        at = draw.randrange(len(lines))
        return "\n".join(lines[:at] + lines[at : at + 1] * (2 * draw.randrange(2)) + lines[at + 1 :])
    if choice == 6:  # an opcode becomes another
        opcodes = [match.span() for match in re.finditer(r"\b[a-z]+\d*\.[\w.:]+", text[start:])]
        begin, end = draw.choice(opcodes or [(0, 0)])
        return text[: start + begin] + draw.choice(OPCODES) + text[start + end :]
    return text[:begin] + chr(draw.choice([0, 1, 10, 34, 123, 127, 255])) + text[end:]


def _run(simulate: Callable[..., Any], twin: Twin, text: str, draw: random.Random) -> str:
    try:
        kernel = Kernel.from_ptx(text, "fuzz.ptx")
        arguments = twin.arguments()
        if len(arguments) != len(kernel.parameters):
            arguments = [empty(16, np.uint32)] * len(kernel.parameters)
        options = {
            "schedule": draw.choice(["eager", "lazy", "random"]),
            "seed": draw.randrange(99),
            "max_instructions": 2000,
        }
        launch = {**twin.launch, **options, "checks": draw.random() < 0.8}
        result = simulate(kernel, arguments=arguments, raise_on_report=False, **launch)
    except (Error, ValueError) as error:
        assert str(error)
        return "error"
    for report in result.reports:
        assert report.text.startswith(f"error[{report.kind}]: ")
    return "reports" if result.reports else "clean"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(16))
def test_changed_words(simulate: Callable[..., Any], seed: int) -> None:
    draw = random.Random(seed)
    outcomes = []
    for _ in range(1500):
        twin = draw.choice(TWINS)
        text = twin.text
        for _ in range(draw.choice([1, 1, 2, 4])):
            text = _changed(text, draw)
        outcomes.append(_run(simulate, twin, text, draw))
    assert {"error", "reports", "clean"} <= set(outcomes)
