// Logic and shifts (PTX ISA, "Logic and Shift Instructions"): shift counts are clamped to the register's width.
#include <algorithm>

#include "isa/families.h"
#include "isa/lanes.h"

namespace sim {
namespace {

template <class T> constexpr u32 width = 8 * sizeof(T);

constexpr auto conjunction = [](auto a, auto b) { return static_cast<decltype(a)>(a & b); };
constexpr auto disjunction = [](auto a, auto b) { return static_cast<decltype(a)>(a | b); };
constexpr auto difference = [](auto a, auto b) { return static_cast<decltype(a)>(a ^ b); };
constexpr auto complement = [](auto a) { return static_cast<decltype(a)>(~a); };

// A predicate is one bit a lane: a warp's worth at once.
template <class F> Step predicates(Warp& warp, const Inst& inst) {
  const Mask a = warp.predicate(inst.op[1]);
  if constexpr (std::is_invocable_v<F, Mask>) warp.write_predicate(inst.op[0], F{}(a));
  else warp.write_predicate(inst.op[0], F{}(a, warp.predicate(inst.op[2])));
  return Step::next();
}
template <class F> constexpr Execute on_predicates(F) { return &predicates<F>; }

constexpr auto shift_left = [](auto a, u32 b) {
  using T = decltype(a);
  return b < width<T> ? static_cast<T>(a << b) : T{0};
};
// A signed shift fills with the sign: any count beyond the width leaves signs only.
constexpr auto shift_right = [](auto a, u32 b) {
  using T = decltype(a);
  if constexpr (std::is_signed_v<T>) return static_cast<T>(a >> std::min(b, width<T> - 1));
  else return b < width<T> ? static_cast<T>(a >> b) : T{0};
};

// The funnel holds b above a; the left shift gives its upper, the right shift its lower half.
constexpr u64 funnel(u32 a, u32 b) { return u64{b} << 32 | a; }
constexpr u32 funnel_left(u32 a, u32 b, u32 count) { return static_cast<u32>(funnel(a, b) << count >> 32); }
constexpr u32 funnel_right(u32 a, u32 b, u32 count) { return static_cast<u32>(funnel(a, b) >> count); }

// Bit i of the table is the result where a, b and c spell the number i.
constexpr u32 look_up(u32 a, u32 b, u32 c, u32 table) {
  u32 result = 0;
  for (u32 i = 0; i < 8; ++i) {
    const u32 here = (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    result |= here & (0 - (table >> i & 1));
  }
  return result;
}
Step look_up_lanes(Warp& warp, const Inst& inst) {
  const u32 *a = warp.in<u32>(inst.op[1]), *b = warp.in<u32>(inst.op[2]), *c = warp.in<u32>(inst.op[3]);
  u32* d = warp.out<u32>(inst.op[0]);
  const u32 table = static_cast<u32>(inst.op[4].offset);
  for (int lane = 0; lane < warp_size; ++lane)
    if (warp.active >> lane & 1) d[lane] = look_up(a[lane], b[lane], c[lane], table);
  return Step::next();
}

const Row rows[] = {
    {"and.{b16,b32,b64} d, a, b", lanes<Bits>(conjunction), Unit::alu},
    {"and.pred d, a, b", on_predicates(conjunction), Unit::alu},
    {"or.{b16,b32,b64} d, a, b", lanes<Bits>(disjunction), Unit::alu},
    {"or.pred d, a, b", on_predicates(disjunction), Unit::alu},
    {"xor.{b16,b32,b64} d, a, b", lanes<Bits>(difference), Unit::alu},
    {"xor.pred d, a, b", on_predicates(difference), Unit::alu},
    {"not.{b16,b32,b64} d, a", lanes<Bits>(complement), Unit::alu},
    {"not.pred d, a", on_predicates(complement), Unit::alu},
    {"cnot.{b16,b32,b64} d, a", lanes<Bits>([](auto a) { return static_cast<decltype(a)>(a == 0); }), Unit::alu},
    {"lop3.b32 d, a, b, c, #n", look_up_lanes, Unit::alu},
    {"shl.{b16,b32,b64} d, a, b:u32", lanes<Bits, Self, u32>(shift_left), Unit::alu},
    {"shr.{b16,b32,b64,u16,u32,u64,s16,s32,s64} d, a, b:u32", lanes<Ints, Self, u32>(shift_right), Unit::alu},
    {"shf.l.wrap.b32 d, a, b, c:u32",
     lane<u32, u32, u32>([](u32 a, u32 b, u32 c) { return funnel_left(a, b, c & 31); }), Unit::alu},
    {"shf.l.clamp.b32 d, a, b, c:u32",
     lane<u32, u32, u32>([](u32 a, u32 b, u32 c) { return funnel_left(a, b, std::min(c, 32u)); }), Unit::alu},
    {"shf.r.wrap.b32 d, a, b, c:u32",
     lane<u32, u32, u32>([](u32 a, u32 b, u32 c) { return funnel_right(a, b, c & 31); }), Unit::alu},
    {"shf.r.clamp.b32 d, a, b, c:u32",
     lane<u32, u32, u32>([](u32 a, u32 b, u32 c) { return funnel_right(a, b, std::min(c, 32u)); }), Unit::alu},
};

}  // namespace

std::span<const Row> logic_rows() { return rows; }

}  // namespace sim
