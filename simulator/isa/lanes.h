// Lane-wise instructions: a function of one lane becomes an instruction's body.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "isa/row.h"
#include "machine/warp.h"

namespace sim {

// PTX types as C++ types. A 16-bit float is kept as its bits; two packed values are a pair.
struct f16 { u16 bits; };
struct bf16 { u16 bits; };
struct f32x2 { float x, y; };
struct bf16x2 { bf16 x, y; };
struct f16x2 { f16 x, y; };
struct pred {};  // as an operand: a bool per lane
struct Self {};  // as an operand: the instruction's own type

template <class... T> struct Types {};
using Ints = Types<i16, u16, i32, u32, i64, u64>;
using Bits = Types<u16, u32, u64>;

namespace detail {

// "s32" and "b32" read the same bits: a typelist says which spellings it answers to through its element types.
template <class T> constexpr bool answers(std::string_view type) {
  if constexpr (std::is_same_v<T, i16>) return type == "s16";
  if constexpr (std::is_same_v<T, u16>) return type == "u16" || type == "b16";
  if constexpr (std::is_same_v<T, i32>) return type == "s32";
  if constexpr (std::is_same_v<T, u32>) return type == "u32" || type == "b32";
  if constexpr (std::is_same_v<T, i64>) return type == "s64";
  if constexpr (std::is_same_v<T, u64>) return type == "u64" || type == "b64";
  if constexpr (std::is_same_v<T, u128>) return type == "b128";
  if constexpr (std::is_same_v<T, float>) return type == "f32";
  if constexpr (std::is_same_v<T, double>) return type == "f64";
  if constexpr (std::is_same_v<T, f16>) return type == "f16";
  if constexpr (std::is_same_v<T, bf16>) return type == "bf16";
  if constexpr (std::is_same_v<T, f16x2>) return type == "f16x2";
  if constexpr (std::is_same_v<T, bf16x2>) return type == "bf16x2";
  if constexpr (std::is_same_v<T, f32x2>) return type == "f32x2";
  return false;
}

// Reads one operand lane by lane.
template <class T> struct Input {
  const T* lanes;
  Input(Warp& warp, const Operand& operand) : lanes(warp.in<T>(operand)) {}
  T operator[](int lane) const { return lanes[lane]; }
};
template <> struct Input<pred> {
  Mask mask;
  Input(Warp& warp, const Operand& operand) : mask(warp.predicate(operand)) {}
  bool operator[](int lane) const { return (mask >> lane & 1) != 0; }
};

template <class F, class... A, std::size_t... I>
Step execute(Warp& warp, const Inst& inst, std::index_sequence<I...>) {
  std::tuple<Input<A>...> in{Input<A>(warp, inst.op[I + 1])...};
  using R = decltype(F{}(std::get<I>(in)[0]...));
  if constexpr (std::is_same_v<R, bool>) {
    Mask value = 0;
    for (int lane = 0; lane < warp_size; ++lane) value |= Mask{F{}(std::get<I>(in)[lane]...)} << lane;
    warp.write_predicate(inst.op[0], value);
  } else {
    R* out = warp.out<R>(inst.op[0]);
    if (warp.active == all_lanes) {
// A result may stand in the register of an operand: same lane, so no dependence is carried from lane to lane.
#pragma GCC ivdep
      for (int lane = 0; lane < warp_size; ++lane) out[lane] = F{}(std::get<I>(in)[lane]...);
    } else {
      for (Mask rest = warp.active; rest; rest &= rest - 1) {
        int lane = __builtin_ctz(rest);
        out[lane] = F{}(std::get<I>(in)[lane]...);
      }
    }
  }
  return Step::next();
}

template <class F, class... A> Step execute(Warp& warp, const Inst& inst) {
  return execute<F, A...>(warp, inst, std::index_sequence_for<A...>{});
}

template <class T, class A> using Resolve = std::conditional_t<std::is_same_v<A, Self>, T, A>;

// All operands of the instruction's type, as many as F takes.
template <class F, class T> constexpr Execute uniform() {
  if constexpr (std::is_invocable_v<F, T>) return &execute<F, T>;
  else if constexpr (std::is_invocable_v<F, T, T>) return &execute<F, T, T>;
  else return &execute<F, T, T, T>;
}

template <class F, class List, class... A> struct Chooser;
template <class F, class... T, class... A> struct Chooser<F, Types<T...>, A...> {
  static Execute bind(Binding& binding) {
    std::string_view type = binding.spelling.type();
    Execute chosen = nullptr;
    auto consider = [&]<class U>() {
      if (!answers<U>(type)) return;
      if constexpr (sizeof...(A) == 0) chosen = uniform<F, U>();
      else chosen = &execute<F, Resolve<U, A>...>;
    };
    (consider.template operator()<T>(), ...);
    if (!chosen) binding.refuse("no body for type ." + std::string(type));
    return chosen;
  }
};

}  // namespace detail

// lanes<Ints>(f): every operand has the instruction's type.  lanes<Bits, Self, u32>(f): operand types one by one.
// f must be a captureless lambda; a bool result goes to a predicate.
template <class List, class... A, class F> constexpr Bind lanes(F) {
  static_assert(std::is_empty_v<F>, "a captureless lambda, not a function's name");
  return &detail::Chooser<F, List, A...>::bind;
}

// lane<A, B>(f): operand types that do not depend on the spelling.
template <class... A, class F> constexpr Execute lane(F) {
  static_assert(std::is_empty_v<F>, "a captureless lambda, not a function's name");
  return &detail::execute<F, A...>;
}

}  // namespace sim
