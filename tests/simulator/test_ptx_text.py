"""PTX text: what the parser and the binder accept, and the words, with file and line, in which they refuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax_fa4_simulator as simulator
import numpy as np
import pytest
from jax_fa4_simulator import Error, Kernel

HEAD = """.version 8.8
.target sm_100a
.address_size 64
.shared .align 8 .b8 buf[64];
.extern .shared .align 128 .b8 dyn[];
"""
ENTRY = ".visible .entry k(.param .u64 a, .param .align 8 .b8 b[16])\n{\n"
REGISTERS = ".reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<9>; .reg .b64 %l<9>; .reg .b128 %q; .reg .f32 %f;\n"


def _bind(text: str, entry: str = "") -> Kernel:
    return Kernel.from_ptx(text, "forward.ptx", entry)


def _body(statements: str) -> str:
    return f"{HEAD}{ENTRY}{REGISTERS}{statements}\n}}\n"


STATEMENT = (HEAD + ENTRY + REGISTERS).count("\n") + 1

# Statement -> what is said of it.
REFUSED = {
    # opcodes
    "add.q32 %r1, %r2, %r3;": 'no instruction "add.q32"; nearest is "add.',
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 %r1;": 'no instruction "mma.sync',
    "call foo;": "functions (call) are not modelled; inline them into the kernel",
    "call.uni (%r1), foo, (%r2);": "functions (call) are not modelled; inline them into the kernel",
    # operands
    "mbarrier.init.shared.b64 [%r1];": "mbarrier.init.shared.b64 takes [a], n:u32; got [%r1]",
    "ret %r1;": "ret takes no operands; got %r1",
    "add.s32 %r1;": "add.s32 takes d, a, b; got %r1",
    "add.s32;": "add.s32 takes d, a, b; got none",
    "add.s32 %r1, %l3, %r2;": "%l3 is 64 bits wide, add.s32 takes 32",
    "add.s32 %r1, %p3, %r2;": "%p3 is a predicate, add.s32 takes 32",
    "selp.b32 %r1, %r2, %r3, %r4;": "%r4 is 32 bits wide, selp.b32 takes a predicate",
    "ld.global.b32 %h1, [%l1];": "%h1 is 16 bits wide, ld.global.b32 takes 32 or more",
    "add.s32 %r1, _, %r2;": "_ can only be written; add.s32 reads it here",
    "add.s32 3, %r1, %r2;": "add.s32 writes here, so 3 must be a register",
    "mov.u32 %tid.x, %r1;": "mov.u32 writes here, so %tid.x must be a register",
    "add.s32 %r1, %r2, %r77;": '"%r77" is not declared here or in a scope around it',
    "add.s32 %r1, %r2, %r01;": '"%r01" is not declared here or in a scope around it',
    "mov.b64 %l1, %laneid;": "%laneid is 32 bits wide, mov.b64 takes 64",
    "mov.b32 %r1, %clock64;": '"%clock64" is not declared here or in a scope around it',
    "selp.b32 %r1, %r2, %r3, !%p1;": "selp.b32 takes no negated predicate; got !%p1",
    "add.s32 %r1, !%r2, %r3;": '"!" stands before predicates only; got !%r2',
    "add.s32 %r1, %r2+4, %r3;": "an offset stands in brackets or after a symbol; got %r2+4",
    "mov.b64 {%r1, %r2, %r3}, %l1;": "mov.b64 cannot be made of 3 parts",
    "mov.b16 %h1, buf;": "the address of buf is 32 or 64 bits wide, mov.b16 takes 16",
    "ld.shared.v2.b32 {%r1, %r2, %r3}, [%r1];": "a vector of 3 registers does not fit the instruction",
    "ld.shared.v4.b32 %r1, [%r1];": "ld.shared.v4.b32: a vector of 1 registers does not fit the instruction",
    # literals
    "add.s32 %r1, %r2, 0x1FFFFFFFF;": "0x1FFFFFFFF does not fit in 32 bits",
    "add.s32 %r1, %r2, -2147483649;": "-2147483649 does not fit in 32 bits",
    "add.s16 %h1, %h2, 65536;": "65536 does not fit in 16 bits",
    "mov.b64 %l1, 18446744073709551616;": '"18446744073709551616" is not a number of PTX',
    "mov.b64 %l1, -9223372036854775809;": '"-9223372036854775809" is not a number of PTX',
    "mov.b32 %r1, 09;": '"09" is not a number of PTX',
    "mov.b32 %r1, 0b12;": '"0b12" is not a number of PTX',
    "mov.b32 %r1, 0x;": '"0x" is not a number of PTX',
    "mov.b32 %r1, 12ab;": '"12ab" is not a number of PTX',
    "mov.b32 %r1, 0f3F80;": '"0f3F80" is not a number of PTX',
    "add.f32 %f, %f, 1;": "add.f32 takes a floating-point literal such as 0f3F800000 here; got 1",
    "add.s32 %r1, %r2, 0f3F800000;": "the floating-point literal 0f3F800000 does not fit add.s32 here",
    "mov.b128 %q, 5;": "a literal has 64 bits at most; mov.b128 takes 128",
    "lop3.b32 %r1, %r2, %r3, %r4, %r5;": "lop3.b32 takes d, a, b, c, #n; got",
    # addresses
    "ld.global.b32 %r1, [a];": "a is a parameter; only ld.param reads it by name",
    "ld.param.b32 %r1, [buf];": "buf is in shared memory, ld.param.b32 is not of that space",
    "ld.global.b32 %r1, [buf];": "buf is in shared memory, ld.global.b32 is not of that space",
    "ld.shared.b32 %r1, [%tid.x];": "%tid.x is no address; move it to a register first",
    "ld.shared.b32 %r1, [%h1];": "%h1 is 16 bits wide, an address of ld.shared.b32 has 32 or 64 bits",
    "ld.shared.b32 %r1, [_];": "_ is no address",
    "ld.shared.b32 %r1, [nothing];": '"nothing" is not declared here or in a scope around it',
    "ld.param.b32 %r1, [a+-8];": "[a+-8] lies before the parameters",
    "mov.b64 %l1, buf+-8;": "buf+-8 lies before its state space begins",
    "tcgen05.ld.sync.aligned.32x32b.x1.b32 %r1, [%l1];": "%l1 is 64 bits wide, an address of tcgen05.ld.sync.",
    "ld.shared.b32 %r1, [%r1, %r2];": 'found "%r2"; allowed here: a vector of coordinates {...}',
    "ld.shared.b32 %r1, [%r1+x];": 'found "x"; allowed here: an offset',
    "ld.shared.b32 %r1, [%r1+0x80000000];": "an offset is at most 2147483647; got 0x80000000",
    # guards, labels, declarations
    "bra L;": 'no label "L" here or in a scope around it',
    "L: bra L; L: ret;": '"L" is a label twice in this scope',
    "{ L: ret; } bra L;": 'no label "L" here or in a scope around it',
    "@%r1 ret;": "the guard @%r1 is not a declared predicate",
    "@q ret;": "the guard @q is not a declared predicate",
    "@%p1 L: ret;": 'found ":"',
    ".reg .b32 %r1;": '"%r1" is declared twice in this scope',
    ".reg .b32 x, x;": '"x" is declared twice in this scope',
    ".reg .b32 %r<4>;": '"%r<>" is declared twice in this scope',
    ".reg .q32 x;": 'found ".q32" after .reg; allowed: a type such as .b32 or .pred',
    ".reg .u8 x;": "there are no registers of 8 bits",
    ".reg .b32 x": 'found "}"; allowed here: "," or ";" after a register',
    ".local .b8 stack[16];": "variables in .local are not modelled",
    ".foo 3;": 'found ".foo"; allowed in a body: .reg, .shared, .loc, .pragma, an instruction, a label',
    ".loc 1 2 3, somewhere;": 'found "somewhere" in .loc; allowed: function_name, inlined_at',
    # punctuation
    "add.s32 %r1, %r2": 'found "}"; allowed here: "," or ";" after an operand',
    "add.s32 %r1 %r2, %r3;": 'found "%r2"; allowed here: "," or ";" after an operand',
    "mov.b64 {%r1, %r2, %l1;": 'found ";"; allowed here: "," or "}" after a vector\'s element',
    "ld.shared.b32 %r1, [%r1;": 'found ";"; allowed here: "+", "," or "]" after an address',
    "+;": 'found "+"; allowed here: an instruction, a label, a directive or "}"',
    "\x01;": 'found "\\x01"; allowed here',
    'mov.b32 %r1, "x";': 'found """; allowed here',
    ";": 'found ";"; allowed here: an instruction, a label, a directive or "}"',
}  # fmt: skip


@pytest.mark.parametrize("statement", REFUSED)
def test_statements_that_are_refused(statement: str) -> None:
    with pytest.raises(Error) as raised:
        _bind(_body(statement))
    file, line, words = re.fullmatch(r"(.*?):(\d+): (.*)", str(raised.value), re.DOTALL).groups()  # type: ignore[union-attr]
    # One line above are the declarations, one line below is the end of the body.
    assert file == "forward.ptx" and abs(int(line) - STATEMENT) <= 1, raised.value
    assert REFUSED[statement] in words


def test_the_line_is_that_of_the_statement() -> None:
    text = _body("mov.b32 %r1, 0;\n/* two\nlines */ // and a comment\nadd.s32 %r1,\n  %r2,\n  %l3;\nret;")
    with pytest.raises(Error, match=rf"^forward.ptx:{STATEMENT + 3}: %l3 is 64 bits wide"):
        _bind(text)


MODULES = {
    "": "a module needs .version and .target",
    "hello": 'found "hello"; allowed here: .version, .target',
    ".version x": 'found "x"; allowed here: a version such as 8.8',
    ".version 8.8\n.target 3": 'found "3"; allowed here: an architecture such as sm_100a',
    ".version 8.8\n.target sm_100a\n.address_size 32": ".address_size must be 64",
    HEAD + ".func foo() { }": "functions (.func) are not modelled",
    HEAD + ".visible .func foo() { }": "functions (.func) are not modelled",
    HEAD + ".global .b32 x;": "variables in .global are not modelled; pass a pointer to the kernel",
    HEAD + ".extern .entry k();": ".extern stands before .shared here",
    HEAD + ".weak .reg .b32 x;": ".weak stands before .entry or .shared here",
    HEAD + ".what": 'found ".what"; allowed here: .version',
    HEAD + "/* never closed": "this comment /* is never closed",
    HEAD + '.file 1 "never closed': "this string is never closed",
    HEAD + ".section .debug { ": 'this "{" is never closed',
    HEAD + ENTRY: 'this "{" is never closed',
    HEAD + ENTRY + "{" * 64 + "}" * 65: "blocks are nested at most 64 deep",
    HEAD + ENTRY + "ret; }}": 'found "}"; allowed here: .version',
    HEAD + ".entry k()": 'found the end of the text; allowed here: the kernel\'s body { }',
    HEAD + ".entry k(.param .u64 a .param .u64 b) { }": 'found ".param"; allowed here: "," or ")" after a parameter',
    HEAD + ".entry k(.param .u64 a, .param .u32 a) { }": 'a parameter "a" stands above',
    HEAD + ".entry k(.param .q a) { }": "a parameter needs a type such as .u64",
    HEAD + ".entry k(.u64 a) { }": "a kernel's parameter begins with .param",
    HEAD + ".entry k(.param .align 3 .b8 a[4]) { }": "an alignment is a power of two",
    HEAD + ".entry k(.param .b8 a[40000]) { }": "an array here has at most 32764 bytes",
    HEAD + ".entry k(.param .b8 a[20000], .param .b8 c[20000]) { }": "a kernel takes at most 32764 bytes of parameters",
    HEAD + ".entry k() { }\n.entry k() { }": 'a kernel "k" stands above',
    HEAD + ".entry k() .reqntid 0 { }": "a CTA has 1 to 1024 threads",
    HEAD + ".entry k() .reqntid 64, 32 { }": "a CTA has 1 to 1024 threads",
    HEAD + ".entry k() .maxfoo 3 { }": 'found ".maxfoo"; allowed before a body: .reqntid',
    HEAD + ".shared .b8 x[300000];": "an array here has at most 232448 bytes",
    HEAD + ".shared .b8 x[];": "only an .extern .shared variable may leave its size to the launch",
    HEAD + ".extern .shared .b8 x[4];": "an .extern .shared variable is an array without size: name[]",
    HEAD + ".shared .b32 x = 3;": "a shared variable cannot be initialised",
    HEAD + ".shared .align 6 .b32 x;": "an alignment is a power of two",
    HEAD + ".shared .b8 y[232448];\n.entry k() { }": "more than 232448 bytes of static shared memory",
    HEAD: 'no kernel ""; there are: none',
    HEAD + ".entry k() { }\n.entry other() { }": 'no kernel ""; there are: k, other',
}  # fmt: skip


@pytest.mark.parametrize("text", MODULES)
def test_modules_that_are_refused(text: str) -> None:
    with pytest.raises(Error, match=re.escape(MODULES[text])) as raised:
        _bind(text)
    assert str(raised.value).startswith("forward.ptx:")


def test_a_kernel_is_chosen_by_name() -> None:
    text = HEAD + ".entry one() { ret; }\n.visible .entry two(.param .u32 x) .reqntid 64 { ret; exit; }"
    assert simulator.entries(text) == ["one", "two"]
    assert _bind(text, "two").required_threads == (64, 1, 1)
    with pytest.raises(Error, match='no kernel "three"; there are: one, two'):
        _bind(text, "three")


def _values(run: Callable[..., Any], statements: str, *names: str) -> list[int]:
    found = run(statements, out={name: np.uint32 for name in names})
    return [int(found[name][0]) for name in names]


def test_literals(run: Callable[..., Any]) -> None:
    text = """
mov.b32 %a, 0x1F; mov.b32 %b, 0b101; mov.b32 %c, 017; mov.b32 %d, 19U; mov.b32 %e, -1; mov.b32 %f, 0XaU;
mov.f32 %g, 0f40490FDB; mov.f32 %h, -0f3F800000; mov.f32 %i, 1.5; mov.f32 %j, 2.5e-1; mov.f32 %k, 0d3FF8000000000000;
mov.s32 %l, -2147483648;"""
    expected = [0x1F, 5, 15, 19, 0xFFFFFFFF, 10]
    expected += np.array([np.pi, -1, 1.5, 0.25, 1.5], np.float32).view(np.uint32).tolist()
    expected.append(1 << 31)
    assert _values(run, text, *"abcdefghijkl") == expected


def test_scopes_hide_names_around_them(run: Callable[..., Any]) -> None:
    text = """
.reg .b32 x; mov.b32 x, 1;
{ .reg .b32 x; mov.b32 x, 2; mov.b32 %a, x; L: bra M; M: }
{ .reg .b32 %y<2>; mov.b32 %y1, 3; mov.b32 %b, %y1; bra L; mov.b32 %b, 9; L: }
mov.b32 %c, x;"""
    assert _values(run, text, *"abc") == [2, 3, 1]


def test_layout_of_text(run: Callable[..., Any]) -> None:
    text = "mov.b32 %a,\n\t1 ; // one\n/* in\r\n between */add.u32 %a , %a,%a;L1:L2: add.u32 %a,%a,/**/3;bra.uni L3;L3:"
    assert _values(run, text, "a") == [5]


def test_addresses_of_variables(simulate: Callable[..., Any]) -> None:
    text = """.version 8.8
.target sm_100a
.address_size 64
.shared .align 4 .b8 one[4];
.shared .align 16 .b32 two[2][4];
.extern .shared .align 256 .b8 rest[];
.entry k(.param .u64 .ptr .global .align 16 out) .maxntid 32 .minnctapersm 1
{
.reg .b32 %r<8>; .reg .b64 %l<4>;
.shared .b64 inner;
.pragma "nounroll";
ld.param.u64 %l0, [out];
mov.u32 %r0, one; mov.u32 %r1, two; mov.u32 %r2, two+16; mov.u32 %r3, rest; mov.u32 %r4, inner;
st.global.v4.b32 [%l0], {%r0, %r1, %r2, %r3};
cvta.shared.u64 %l1, two; cvta.to.shared.u64 %l1, %l1; cvt.u32.u64 %r5, %l1; st.global.v2.b32 [%l0+16], {%r4, %r5};
st.shared.b32 [two+4], 7; ld.shared.b32 %r6, [%r1+4]; st.global.b32 [%l0+24], %r6;
}
"""
    out = np.zeros(7, np.uint32)
    simulate(text, block=1, dynamic_shared=16, arguments=[out])
    assert out.tolist() == [1024, 1040, 1056, 1280, 1072, 1040, 7]


def test_lines_of_the_source(simulate: Callable[..., Any]) -> None:
    text = """.version 8.8
.target sm_100a
.address_size 64
.file 1 "kernels/forward.py", 1700000000, 4096
.entry k() { .loc 1 57 3
ret;
.loc 1 58 1, function_name L, inlined_at 1 20 5
exit;
L:
}
.section .debug_str { .b8 1, 2 "}" { } }
"""
    assert _bind(text).sources == ["kernels/forward.py:57", "kernels/forward.py:58"]
    assert _bind(text).lines.tolist() == [6, 8]


def test_the_table_is_sound() -> None:
    """Loading checks it: no spelling belongs to two rows, every row has a body; here: they can all be read back."""
    rows = simulator.rows()
    seen: dict[str, str] = {}
    for number, row in enumerate(rows):
        spellings = simulator.spellings(number)
        assert spellings
        for spelling in spellings:
            assert re.fullmatch(r"[a-z][\w.:]*", spelling), spelling
            assert seen.setdefault(spelling, row) == row
    assert len(rows) > 300
    with pytest.raises(Error, match=f"the table has {len(rows)} rows"):
        simulator.spellings(len(rows))
