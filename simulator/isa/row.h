// A row of the instruction table: the manual's syntax line, and what binds it to a body.
//
//   opcode part (up to the first blank):  {a,b} alternatives   [.x] or [::x] optional text; both may nest
//   operands, separated by commas:
//     d, a, ...      a register or immediate of the instruction's type (the last type in the spelling: .s32, .bf16x2,
//     .f32x2) a:b64          of another type;  a:any  of any width (the body reads Operand::bytes);  a:wide  twice the
//     type's width;
//                    d:before  of the type before the last one (cvt.u64.u32: u64)
//     a+, a:b8+      its register may be wider than that (ld, st, cvt: "operand size exceeding instruction-type size")
//     p:pred         a predicate;  a!:pred may be negated
//     #n, #n:u64     an integer constant (u32 unless typed); Operand::offset is its value
//     d:b32|p:pred   two results; the second may be missing when written [|p:pred] (Operand::sink then)
//     [a]            an address: a 32- or 64-bit register or symbol plus offset;  [a:b32]  of that width only
//     [a, {c}]       an address and a vector of coordinates (any length; s32 unless typed)
//     {d}            a vector of any length (the body's binder checks it); "d|{d}": a vector or one register alike
//     {a:part}       a vector whose elements are together as wide as the type (mov.b64 d, {a:part})
//     a:b64|[a:b32]  either of two forms that differ in shape; Operand::bytes tells which it was
//     target         a label
//     [, t]          an optional operand, with the comma inside the brackets
//     [M::x, m:u16]  an operand that stands exactly when the opcode has the modifier M::x
// Operands named d (d, d1, ...) and the second of two results are written, all others (and addresses) read; the bit
// bucket _ may stand for a written one only. A sink is a register of its own that nobody reads.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "machine/program.h"

namespace sim {

// Width of a register of this type in bytes (pred: 0), or nothing if there is no such type.
std::optional<u8> type_bytes(std::string_view type);

// One opcode as it stands in the text, split at its dots: {"ld", "global", "v4", "b32"}.
struct Spelling {
  std::string_view text;
  std::vector<std::string_view> parts;
  bool has(std::string_view part) const;           // "multicast::cluster"
  std::string_view starting(std::string_view prefix) const;  // "cta_group::2" for "cta_group::", else ""
  std::string_view type(int from_last = 0) const;  // the last type part, the one before, ...
};

struct Binding {
  const Spelling& spelling;
  Inst& inst;                    // field[] is the binder's to fill
  std::span<const Operand> op;   // = inst.op, inst.ops
  std::vector<u32> group;  // entries of op for each operand of the pattern (two results: 2; a vector: its length; [a,
                           // {c}]: 1 + coordinates; an absent one: 0)
  // Throws sim::Error with file and line in front.
  [[noreturn]] void refuse(const std::string& why) const;
  const std::string* where = nullptr;
};

using Bind = Execute (*)(Binding&);

// A row's body is either a function of the machine alone, or chosen by a binder from the spelling's modifiers.
class Body {
 public:
  constexpr Body(Execute execute) : execute_(execute) {}
  constexpr Body(Bind bind) : bind_(bind) {}
  Execute operator()(Binding& binding) const { return bind_ ? bind_(binding) : execute_; }
  bool empty() const { return !bind_ && !execute_; }

 private:
  Execute execute_ = nullptr;
  Bind bind_ = nullptr;
};

// What an instruction costs, for the counters (check/counters).
enum class Unit : u8 { none, alu, fma, mufu, memory, tensor, control };

struct Row {
  std::string_view syntax;
  Body body;
  Unit unit = Unit::none;
  bool writes_later = false;  // an asynchronous instruction: its results stand in the registers only after a wait
};

// All rows of all families, checked once: no two rows may match one spelling, no row may lack a body.
std::span<const Row> table();

}  // namespace sim
