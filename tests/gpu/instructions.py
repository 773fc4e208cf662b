"""Instructions that a GPU and the simulator execute on the same numbers: one kernel each, a thread a number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]
COUNT = 8192

TEXT = """
.version 8.0
.target sm_90a
.address_size 64
.visible .entry one_instruction(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd)
.reqntid 128, 1, 1
{{
  .reg .b16 %h<9>;
  .reg .b32 %r<9>;
  .reg .b64 %rd<9>;
  .reg .b32 %a, %b, %c, %d;
  ld.param.u64 %rd1, [pa];
  ld.param.u64 %rd2, [pb];
  ld.param.u64 %rd3, [pc];
  ld.param.u64 %rd4, [pd];
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %tid.x;
  shl.b32 %r3, %r1, 7;
  add.u32 %r4, %r3, %r2;
  mul.wide.u32 %rd5, %r4, 4;
  add.s64 %rd1, %rd1, %rd5;
  add.s64 %rd2, %rd2, %rd5;
  add.s64 %rd3, %rd3, %rd5;
  add.s64 %rd4, %rd4, %rd5;
  ld.global.b32 %a, [%rd1];
  ld.global.b32 %b, [%rd2];
  ld.global.b32 %c, [%rd3];
  mov.b32 %d, 0;
  {instruction}
  st.global.b32 [%rd4], %d;
  ret;
}}
"""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """What is executed.

    Attributes:
      text: of PTX, from registers %a, %b, %c to %d.
      given: what the registers hold: "integer", "float32", "bfloat16" or "float16" (two of these).
      found: likewise of %d.
      exact: the function in double precision where the manual leaves the last bits open; None: every bit is defined.
      low, high: range of the numbers, where not all bit patterns are tried.
    """

    text: str
    given: str = "integer"
    found: str = "integer"
    exact: Callable[..., Any] | None = None
    low: float | None = None
    high: float | None = None

    @property
    def name(self) -> str:
        """Its opcode."""
        return next(word for word in self.text.split() if "." in word)

    def ptx(self) -> str:
        return TEXT.format(instruction=self.text)

    def inputs(self) -> tuple[Array, Array, Array]:
        """32-bit words: edges, then random numbers."""
        random = np.random.default_rng(list(self.text.encode()))
        words = [self._words(random) for _ in range(3)]
        return words[0], words[1], words[2]

    def _words(self, random: np.random.Generator) -> Array:
        bits: Array = random.integers(0, 1 << 32, COUNT, dtype=np.uint32)
        if self.given == "integer":
            bits[::4] >>= 20  # small numbers, which shifts and positions take
            edges = [0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
            bits[: len(edges)] = random.permutation(np.array(edges, np.uint32))
            return bits
        dtype = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}[self.given]
        if self.low is not None:
            numbers = random.uniform(self.low, self.high, COUNT * (4 // np.dtype(dtype).itemsize))
            return numbers.astype(dtype).view(np.uint32)
        half = random.standard_normal(COUNT // 2 * (4 // np.dtype(dtype).itemsize)) * 8
        bits[: COUNT // 2] = half.astype(dtype).view(np.uint32)
        return bits

    def numbers(self, words: Array) -> Array:
        """%d as what it is."""
        kinds = {"integer": np.int32, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
        return words.view(kinds[self.found])


def _integer(text: str) -> Instruction:
    return Instruction(text)


def _float(text: str, given: str = "float32", found: str = "float32") -> Instruction:
    return Instruction(text, given, found)


def _approximate(
    text: str, exact: Callable[..., Any], low: float, high: float, kind: str = "float32"
) -> Instruction:  # fmt: skip
    return Instruction(text, kind, kind, exact, low, high)


INTEGERS = tuple(map(_integer, (
    "add.s32 %d, %a, %b;", "sub.s32 %d, %a, %b;", "mul.lo.s32 %d, %a, %b;", "mul.hi.s32 %d, %a, %b;",
    "mul.hi.u32 %d, %a, %b;", "mad.lo.s32 %d, %a, %b, %c;", "shl.b32 %d, %a, %b;", "shr.s32 %d, %a, %b;",
    "shr.u32 %d, %a, %b;", "and.b32 %d, %a, %b;", "xor.b32 %d, %a, %b;", "not.b32 %d, %a;", "min.s32 %d, %a, %b;",
    "max.u32 %d, %a, %b;", "abs.s32 %d, %a;", "neg.s32 %d, %a;", "popc.b32 %d, %a;", "clz.b32 %d, %a;",
    "brev.b32 %d, %a;", "prmt.b32 %d, %a, %b, %c;", "lop3.b32 %d, %a, %b, %c, 0x96;", "shf.l.wrap.b32 %d, %a, %b, %c;",
    "rem.u32 %d, %a, %b;", "div.s32 %d, %a, 7;", "cvt.rn.f32.s32 %d, %a;", "cvt.rn.f32.u32 %d, %a;",
)))  # fmt: skip

FLOATS = (
    *(_float(f"{opcode} %d, %a, %b;") for opcode in (
        "add.rn.f32", "add.ftz.f32", "sub.f32", "mul.rn.f32", "mul.ftz.f32", "min.f32", "max.f32", "max.ftz.f32",
    )),
    _float("fma.rn.f32 %d, %a, %b, %c;"), _float("fma.rn.ftz.f32 %d, %a, %b, %c;"), _float("neg.f32 %d, %a;"),
    _float("abs.f32 %d, %a;"), _float("cvt.rni.s32.f32 %d, %a;", found="integer"),
    _float("cvt.rzi.s32.f32 %d, %a;", found="integer"),
    _float("cvt.rn.bf16x2.f32 %d, %a, %b;", found="bfloat16"), _float("cvt.rn.f16x2.f32 %d, %a, %b;", found="float16"),
    _float("fma.rn.bf16x2 %d, %a, %b, %c;", "bfloat16", "bfloat16"),
    _float("fma.rn.f16x2 %d, %a, %b, %c;", "float16", "float16"),
    _float("add.f16x2 %d, %a, %b;", "float16", "float16"), _float("mul.f16x2 %d, %a, %b;", "float16", "float16"),
)  # fmt: skip

APPROXIMATIONS = (
    _approximate("ex2.approx.f32 %d, %a;", np.exp2, -125, 127),
    _approximate("ex2.approx.ftz.f32 %d, %a;", np.exp2, -125, 0),
    _approximate("lg2.approx.f32 %d, %a;", np.log2, 1e-3, 1e3),
    _approximate("lg2.approx.ftz.f32 %d, %a;", np.log2, 1, 1e30),
    _approximate("rcp.approx.ftz.f32 %d, %a;", np.reciprocal, 1e-3, 1e3),
    _approximate("rsqrt.approx.ftz.f32 %d, %a;", lambda a: 1 / np.sqrt(a), 1e-3, 1e3),
    _approximate("sqrt.approx.ftz.f32 %d, %a;", np.sqrt, 0, 1e6),
    _approximate("sin.approx.f32 %d, %a;", np.sin, -3.14, 3.14),
    _approximate("cos.approx.f32 %d, %a;", np.cos, -3.14, 3.14),
    _approximate("tanh.approx.f32 %d, %a;", np.tanh, -8, 8),
    _approximate("div.approx.f32 %d, %a, %b;", np.divide, 1e-3, 1e3),
    _approximate("div.full.f32 %d, %a, %b;", np.divide, 1e-3, 1e3),
    _approximate("ex2.approx.ftz.bf16x2 %d, %a;", np.exp2, -100, 100, "bfloat16"),
    _approximate("ex2.approx.f16x2 %d, %a;", np.exp2, -14, 15, "float16"),
    _approximate("tanh.approx.bf16x2 %d, %a;", np.tanh, -4, 4, "bfloat16"),
    _approximate("tanh.approx.f16x2 %d, %a;", np.tanh, -4, 4, "float16"),
)
