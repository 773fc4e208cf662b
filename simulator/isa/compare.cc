// Comparison and selection (PTX ISA, "Comparison and Selection Instructions", and testp).
#include <array>

#include "isa/families.h"
#include "isa/rounding.h"

namespace sim {
namespace {

// One bit a lane, as a table: loops over it become vector code on every processor.
constexpr auto bit_of = [] {
  std::array<u32, warp_size> bits{};
  for (int lane = 0; lane < warp_size; ++lane) bits[static_cast<std::size_t>(lane)] = u32{1} << lane;
  return bits;
}();

// An ordered comparison with a NaN is false, an unordered one true. "ne" is ordered too, unlike C++'s.
struct Equal { static bool holds(auto a, auto b) { return a == b; } };
struct NotEqual { static bool holds(auto a, auto b) { return (a < b) | (a > b); } };
struct Less { static bool holds(auto a, auto b) { return a < b; } };
struct LessEqual { static bool holds(auto a, auto b) { return a <= b; } };
struct Greater { static bool holds(auto a, auto b) { return a > b; } };
struct GreaterEqual { static bool holds(auto a, auto b) { return a >= b; } };
struct Numbers { static bool holds(auto a, auto b) { return (a == a) & (b == b); } };
template <class Opposite> struct Unordered { static bool holds(auto a, auto b) { return !Opposite::holds(a, b); } };

template <class T> struct Flushed { T value; };  // an operand read with .ftz

template <class T> auto comparable(T x) { return x; }
inline float comparable(f16 x) { return exact(x); }
inline float comparable(bf16 x) { return exact(x); }
inline float comparable(Flushed<float> x) { return flush(x.value); }
inline float comparable(Flushed<f16> x) { return exact(flush(x.value)); }

template <class T, class Operator> Mask compare(const Warp& warp, const Operand& left, const Operand& right) {
  const T *a = warp.in<T>(left), *b = warp.in<T>(right);
  Mask mask = 0;
  for (std::size_t lane = 0; lane < warp_size; ++lane)
    mask |= Operator::holds(comparable(a[lane]), comparable(b[lane])) ? bit_of[lane] : 0;
  return mask;
}

// Where setp and set find their operands: d, [d2,] a, b, [c].
enum class Combination : u32 { none, conjunction, disjunction, difference };

Mask combine(Warp& warp, const Inst& inst, int c, Mask compared) {
  switch (static_cast<Combination>(inst.field[0])) {
    case Combination::none: break;
    case Combination::conjunction: return compared & warp.predicate(inst.op[c]);
    case Combination::disjunction: return compared | warp.predicate(inst.op[c]);
    case Combination::difference: return compared ^ warp.predicate(inst.op[c]);
  }
  return compared;
}

template <class T, class Operator> Step set_predicates(Warp& warp, const Inst& inst) {
  const Mask compared = compare<T, Operator>(warp, inst.op[2], inst.op[3]);
  const Mask first = combine(warp, inst, 4, compared), second = combine(warp, inst, 4, ~compared);
  warp.write_predicate(inst.op[0], first);
  warp.write_predicate(inst.op[1], second);
  return Step::next();
}

// set writes all ones, or 1.0 for a floating-point result.
template <class T, class Operator> Step set_register(Warp& warp, const Inst& inst) {
  const Mask result = combine(warp, inst, 3, compare<T, Operator>(warp, inst.op[1], inst.op[2]));
  u32* d = warp.out<u32>(inst.op[0]);
  for (Mask rest = warp.active; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    d[lane] = result >> lane & 1 ? inst.field[1] : 0;
  }
  return Step::next();
}

struct ToPredicates {
  template <class T, class Operator> static constexpr Execute body = &set_predicates<T, Operator>;
};
struct ToRegister {
  template <class T, class Operator> static constexpr Execute body = &set_register<T, Operator>;
};

template <class T> constexpr bool is_floating = !std::is_integral_v<T>;

// "setp.lt.and.s32": the operator is always the second part.
template <class Use, class T> Execute by_operator(std::string_view name) {
  if (name == "eq") return Use::template body<T, Equal>;
  if (name == "ne") return Use::template body<T, NotEqual>;
  if (name == "lt" || name == "lo") return Use::template body<T, Less>;
  if (name == "le" || name == "ls") return Use::template body<T, LessEqual>;
  if (name == "gt" || name == "hi") return Use::template body<T, Greater>;
  if (name == "ge" || name == "hs") return Use::template body<T, GreaterEqual>;
  if constexpr (is_floating<T>) {
    if (name == "equ") return Use::template body<T, Unordered<NotEqual>>;
    if (name == "neu") return Use::template body<T, Unordered<Equal>>;
    if (name == "ltu") return Use::template body<T, Unordered<GreaterEqual>>;
    if (name == "leu") return Use::template body<T, Unordered<Greater>>;
    if (name == "gtu") return Use::template body<T, Unordered<LessEqual>>;
    if (name == "geu") return Use::template body<T, Unordered<Less>>;
    if (name == "num") return Use::template body<T, Numbers>;
    if (name == "nan") return Use::template body<T, Unordered<Numbers>>;
  }
  return nullptr;
}

template <class Use, class... T> Execute by_type(const Spelling& spelling, Types<T...>) {
  Execute chosen = nullptr;
  ((detail::answers<T>(spelling.type()) ? void(chosen = by_operator<Use, T>(spelling.parts[1])) : void()), ...);
  return chosen;
}

using Comparable = Types<i16, u16, i32, u32, i64, u64, float, double, f16, bf16>;

template <class Use> Execute bind(Binding& binding) {
  const Spelling& spelling = binding.spelling;
  auto& field = binding.inst.field;
  field[0] = static_cast<u32>(spelling.has("and")   ? Combination::conjunction
                              : spelling.has("or")  ? Combination::disjunction
                              : spelling.has("xor") ? Combination::difference
                                                    : Combination::none);
  field[1] = spelling.type(1) == "f32" ? bits_of(1.0f) : ~u32{0};
  Execute chosen = nullptr;
  if (!spelling.has("ftz")) chosen = by_type<Use>(spelling, Comparable{});
  else if (spelling.type() == "f32") chosen = by_operator<Use, Flushed<float>>(spelling.parts[1]);
  else if (spelling.type() == "f16") chosen = by_operator<Use, Flushed<f16>>(spelling.parts[1]);
  if (!chosen) binding.refuse("no such comparison of type ." + std::string(spelling.type()));
  return chosen;
}
constexpr Bind to_predicates = &bind<ToPredicates>, to_register = &bind<ToRegister>;

// Types are only widths to a selection.
template <class T> Step select(Warp& warp, const Inst& inst) {
  const T *a = warp.in<T>(inst.op[1]), *b = warp.in<T>(inst.op[2]);
  T* d = warp.out<T>(inst.op[0]);
  const Mask chosen = warp.predicate(inst.op[3]), active = warp.active;
#pragma GCC ivdep
  for (std::size_t lane = 0; lane < warp_size; ++lane) {
    const T value = chosen & bit_of[lane] ? a[lane] : b[lane];
    d[lane] = active & bit_of[lane] ? value : d[lane];
  }
  return Step::next();
}
Execute bind_select(Binding& binding) {
  switch (binding.op[0].bytes) {
    case 2: return &select<u16>;
    case 4: return &select<u32>;
    default: return &select<u64>;
  }
}

// -0 counts as not negative, NaN as negative.
template <class T, class Sign>
constexpr Execute by_sign = lane<T, T, Sign>([](T a, T b, Sign c) { return c >= 0 ? a : b; });
// .ftz would turn a negative subnormal into -0, which chooses a.
template <class T>
constexpr Execute by_flushed_sign = lane<T, T, float>([](T a, T b, float c) { return flush(c) >= 0 ? a : b; });

template <class T> struct Tests {
  static constexpr T smallest = std::numeric_limits<T>::min(), infinity = std::numeric_limits<T>::infinity();
  static bool finite(T x) { return std::fabs(x) < infinity; }
  static bool infinite(T x) { return std::fabs(x) == infinity; }
  static bool number(T x) { return x == x; }
  static bool not_a_number(T x) { return x != x; }
  static bool normal(T x) { return (std::fabs(x) >= smallest) & (std::fabs(x) < infinity); }
  static bool subnormal(T x) { return std::fabs(x) < smallest; }
};
template <class T> Execute test_of(std::string_view property) {
  if (property == "finite") return lane<T>([](T x) { return Tests<T>::finite(x); });
  if (property == "infinite") return lane<T>([](T x) { return Tests<T>::infinite(x); });
  if (property == "number") return lane<T>([](T x) { return Tests<T>::number(x); });
  if (property == "notanumber") return lane<T>([](T x) { return Tests<T>::not_a_number(x); });
  if (property == "normal") return lane<T>([](T x) { return Tests<T>::normal(x); });
  return lane<T>([](T x) { return Tests<T>::subnormal(x); });
}
Execute bind_test(Binding& binding) {
  const std::string_view property = binding.spelling.parts[1];
  return binding.spelling.type() == "f32" ? test_of<float>(property) : test_of<double>(property);
}
constexpr Bind test = &bind_test;

const Row rows[] = {
    {"setp.{eq,ne}.{b16,b32,b64} d:pred[|d2:pred], a, b", to_predicates, Unit::alu},
    {"setp.{eq,ne}.{and,or,xor}.{b16,b32,b64} d:pred[|d2:pred], a, b, c!:pred", to_predicates, Unit::alu},
    {"setp.{eq,ne,lt,le,gt,ge}.{s16,s32,s64,u16,u32,u64} d:pred[|d2:pred], a, b", to_predicates, Unit::alu},
    {"setp.{eq,ne,lt,le,gt,ge}.{and,or,xor}.{s16,s32,s64,u16,u32,u64} d:pred[|d2:pred], a, b, c!:pred", to_predicates,
     Unit::alu},
    {"setp.{lo,ls,hi,hs}.{u16,u32,u64} d:pred[|d2:pred], a, b", to_predicates, Unit::alu},
    {"setp.{lo,ls,hi,hs}.{and,or,xor}.{u16,u32,u64} d:pred[|d2:pred], a, b, c!:pred", to_predicates, Unit::alu},
    {"setp.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}[.ftz].{f32,f16} d:pred[|d2:pred], a, b", to_predicates,
     Unit::alu},
    {"setp.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}.{and,or,xor}[.ftz].{f32,f16} "
     "d:pred[|d2:pred], a, b, c!:pred",
     to_predicates, Unit::alu},
    {"setp.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}.{f64,bf16} d:pred[|d2:pred], a, b", to_predicates,
     Unit::alu},
    {"setp.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}.{and,or,xor}.{f64,bf16} d:pred[|d2:pred], a, b, c!:pred",
     to_predicates, Unit::alu},
    {"set.{eq,ne}.{u32,s32,f32}.{b16,b32,b64} d:b32, a, b", to_register, Unit::alu},
    {"set.{eq,ne,lt,le,gt,ge}.{u32,s32,f32}.{s16,s32,s64,u16,u32,u64} d:b32, a, b", to_register, Unit::alu},
    {"set.{eq,ne,lt,le,gt,ge}.{and,or,xor}.{u32,s32,f32}.{s16,s32,s64,u16,u32,u64} d:b32, a, b, c!:pred", to_register,
     Unit::alu},
    {"set.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}[.ftz].{u32,s32,f32}.f32 d:b32, a, b", to_register,
     Unit::alu},
    {"set.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}.{and,or,xor}[.ftz].{u32,s32,f32}.f32 "
     "d:b32, a, b, c!:pred",
     to_register, Unit::alu},
    {"selp.{b16,b32,b64,u16,u32,u64,s16,s32,s64,f32,f64} d, a, b, c:pred", Bind{bind_select}, Unit::alu},
    {"slct.{b16,u16,s16}.s32 d:before, a:before, b:before, c", by_sign<u16, i32>, Unit::alu},
    {"slct.{b32,u32,s32,f32}.s32 d:before, a:before, b:before, c", by_sign<u32, i32>, Unit::alu},
    {"slct.{b64,u64,s64,f64}.s32 d:before, a:before, b:before, c", by_sign<u64, i32>, Unit::alu},
    {"slct.{b16,u16,s16}.f32 d:before, a:before, b:before, c", by_sign<u16, float>, Unit::alu},
    {"slct.{b32,u32,s32,f32}.f32 d:before, a:before, b:before, c", by_sign<u32, float>, Unit::alu},
    {"slct.{b64,u64,s64,f64}.f32 d:before, a:before, b:before, c", by_sign<u64, float>, Unit::alu},
    {"slct.ftz.{b16,u16,s16}.f32 d:before, a:before, b:before, c", by_flushed_sign<u16>, Unit::alu},
    {"slct.ftz.{b32,u32,s32,f32}.f32 d:before, a:before, b:before, c", by_flushed_sign<u32>, Unit::alu},
    {"slct.ftz.{b64,u64,s64,f64}.f32 d:before, a:before, b:before, c", by_flushed_sign<u64>, Unit::alu},
    {"testp.{finite,infinite,number,notanumber,normal,subnormal}.{f32,f64} d:pred, a", test, Unit::alu},
};

}  // namespace

std::span<const Row> compare_rows() { return rows; }

}  // namespace sim
