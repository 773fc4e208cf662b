// Integer arithmetic (PTX ISA, "Integer Arithmetic Instructions"): results wrap unless .sat is written.
#include <algorithm>
#include <limits>

#include "isa/families.h"
#include "isa/lanes.h"

namespace sim {
namespace {

template <class T> constexpr int width = 8 * sizeof(T);
template <class T> constexpr auto least = std::numeric_limits<T>::min();
template <class T> constexpr auto greatest = std::numeric_limits<T>::max();

// The type in which T's arithmetic wraps; 16-bit operands would otherwise be promoted to int.
template <class T> using Wrapping = std::conditional_t<(sizeof(T) < 4), u32, std::make_unsigned_t<T>>;
template <class T> constexpr Wrapping<T> wrapping(T x) { return static_cast<Wrapping<T>>(x); }

template <class T> struct Doubled;
template <> struct Doubled<i16> { using type = i32; };
template <> struct Doubled<u16> { using type = u32; };
template <> struct Doubled<i32> { using type = i64; };
template <> struct Doubled<u32> { using type = u64; };
template <> struct Doubled<i64> { using type = __int128; };
template <> struct Doubled<u64> { using type = u128; };
template <class T> using Wide = typename Doubled<T>::type;

using Narrow = Types<i16, u16, i32, u32>;
using Signed = Types<i16, i32, i64>;
using Words = Types<i32, u32, i64, u64>;

constexpr auto add = [](auto a, auto b) { return static_cast<decltype(a)>(wrapping(a) + wrapping(b)); };
constexpr auto subtract = [](auto a, auto b) { return static_cast<decltype(a)>(wrapping(a) - wrapping(b)); };
constexpr auto multiply_low = [](auto a, auto b) { return static_cast<decltype(a)>(wrapping(a) * wrapping(b)); };
constexpr auto multiply_wide = [](auto a, auto b) { return static_cast<Wide<decltype(a)>>(Wide<decltype(a)>{a} * b); };
constexpr auto multiply_high = [](auto a, auto b) {
  return static_cast<decltype(a)>(multiply_wide(a, b) >> width<decltype(a)>);
};
constexpr auto add_wide = [](auto a, auto b, auto c) {
  return static_cast<decltype(c)>(static_cast<std::make_unsigned_t<decltype(c)>>(multiply_wide(a, b)) + wrapping(c));
};
constexpr auto negate = [](auto a) { return static_cast<decltype(a)>(0 - wrapping(a)); };
constexpr auto absolute = [](auto a) { return a < 0 ? negate(a) : a; };
constexpr auto least_of = [](auto a, auto b) { return a < b ? a : b; };
constexpr auto greatest_of = [](auto a, auto b) { return a > b ? a : b; };

i32 saturated(i64 x) { return static_cast<i32>(std::clamp<i64>(x, least<i32>, greatest<i32>)); }

// The manual leaves division by zero open; hardware gives a quotient of all ones, and so the dividend as remainder.
constexpr auto divide = [](auto a, auto b) {
  using T = decltype(a);
  if (b == 0) return static_cast<T>(~T{0});
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return negate(a);
  return static_cast<T>(a / b);
};
constexpr auto remainder = [](auto a, auto b) { return subtract(a, multiply_low(divide(a, b), b)); };

constexpr auto add_absolute_difference = [](auto a, auto b, auto c) {
  return add(c, a < b ? subtract(b, a) : subtract(a, b));
};

// Two 16-bit lanes in one register.
template <class T, class F> u32 halves(u32 a, u32 b, F f) {
  const auto part = [&](u32 shift) {
    return u32{static_cast<u16>(f(static_cast<T>(a >> shift), static_cast<T>(b >> shift)))} << shift;
  };
  return part(16) | part(0);
}

constexpr auto leading_zeros = [](auto a) { return static_cast<u32>(std::countl_zero(a)); };

// Position of the highest bit that is not a copy of the sign, or all ones.
constexpr auto find_highest = [](auto a) {
  const auto magnitude = wrapping(a < 0 ? static_cast<decltype(a)>(~a) : a);
  return static_cast<u32>(width<decltype(a)> - 1 - std::countl_zero(magnitude));
};
// How far to shift left to bring that bit to the top.
constexpr auto find_shift = [](auto a) {
  const u32 position = find_highest(a);
  return position == ~u32{0} ? position : width<decltype(a)> - 1 - position;
};

constexpr auto reverse = [](auto a) {
  decltype(a) reversed = 0;
  for (int bit = 0; bit < width<decltype(a)>; ++bit) reversed = reversed << 1 | (a >> bit & 1);
  return reversed;
};

// Only the low bytes of position and length count; bits beyond the top read as the sign, or as zero.
constexpr auto extract = [](auto a, u32 b, u32 c) {
  using T = decltype(a);
  using U = std::make_unsigned_t<T>;
  constexpr u32 top = width<T> - 1;
  const u32 position = b & 0xFF, length = c & 0xFF;
  if (length == 0) return T{0};
  const U bits = static_cast<U>(a), sign = std::is_signed_v<T> ? bits >> std::min(position + length - 1, top) & 1 : 0;
  const U field = position > top ? 0 : bits >> position;
  const u32 present = std::min(length, position > top ? 0 : top + 1 - position);
  const U mask = present > top ? ~U{0} : static_cast<U>((U{1} << present) - 1);
  return static_cast<T>((field & mask) | (sign ? ~mask : U{0}));
};

constexpr auto insert = [](auto a, auto b, u32 c, u32 d) {
  using U = decltype(a);
  constexpr u32 bits = width<U>;
  const u32 position = c & 0xFF, length = d & 0xFF;
  if (position >= bits) return b;
  const U ones = length >= bits ? ~U{0} : static_cast<U>((U{1} << length) - 1), mask = static_cast<U>(ones << position);
  return static_cast<U>((b & ~mask) | (static_cast<U>(a << position) & mask));
};

const Row rows[] = {
    {"add.{s16,u16,s32,u32,s64,u64} d, a, b", lanes<Ints>(add), Unit::alu},
    {"add.{s16x2,u16x2} d, a, b", lane<u32, u32>([](u32 a, u32 b) { return halves<u16>(a, b, add); }), Unit::alu},
    {"add.sat.s32 d, a, b", lane<i32, i32>([](i32 a, i32 b) { return saturated(i64{a} + b); }), Unit::alu},
    {"sub.{s16,u16,s32,u32,s64,u64} d, a, b", lanes<Ints>(subtract), Unit::alu},
    {"sub.sat.s32 d, a, b", lane<i32, i32>([](i32 a, i32 b) { return saturated(i64{a} - b); }), Unit::alu},
    {"mul.lo.{s16,u16,s32,u32,s64,u64} d, a, b", lanes<Ints>(multiply_low), Unit::alu},
    {"mul.hi.{s16,u16,s32,u32,s64,u64} d, a, b", lanes<Ints>(multiply_high), Unit::alu},
    {"mul.wide.{s16,u16,s32,u32} d:wide, a, b", lanes<Narrow>(multiply_wide), Unit::alu},
    {"mad.lo.{s16,u16,s32,u32,s64,u64} d, a, b, c",
     lanes<Ints>([](auto a, auto b, auto c) { return add(multiply_low(a, b), c); }), Unit::alu},
    {"mad.hi.{s16,u16,s32,u32,s64,u64} d, a, b, c",
     lanes<Ints>([](auto a, auto b, auto c) { return add(multiply_high(a, b), c); }), Unit::alu},
    {"mad.hi.sat.s32 d, a, b, c",
     lane<i32, i32, i32>([](i32 a, i32 b, i32 c) { return saturated(i64{multiply_high(a, b)} + c); }), Unit::alu},
    {"mad.wide.s16 d:wide, a, b, c:wide", lane<i16, i16, i32>(add_wide), Unit::alu},
    {"mad.wide.u16 d:wide, a, b, c:wide", lane<u16, u16, u32>(add_wide), Unit::alu},
    {"mad.wide.s32 d:wide, a, b, c:wide", lane<i32, i32, i64>(add_wide), Unit::alu},
    {"mad.wide.u32 d:wide, a, b, c:wide", lane<u32, u32, u64>(add_wide), Unit::alu},
    {"sad.{s16,u16,s32,u32,s64,u64} d, a, b, c", lanes<Ints>(add_absolute_difference), Unit::alu},
    {"div.{s16,u16,s32,u32,s64,u64} d, a, b", lanes<Ints>(divide), Unit::alu},
    {"rem.{s16,u16,s32,u32,s64,u64} d, a, b", lanes<Ints>(remainder), Unit::alu},
    {"neg.{s16,s32,s64} d, a", lanes<Signed>(negate), Unit::alu},
    {"abs.{s16,s32,s64} d, a", lanes<Signed>(absolute), Unit::alu},
    {"min.{s16,u16,s32,u32,s64,u64} d, a, b", lanes<Ints>(least_of), Unit::alu},
    {"max.{s16,u16,s32,u32,s64,u64} d, a, b", lanes<Ints>(greatest_of), Unit::alu},
    {"min.relu.s32 d, a, b", lane<i32, i32>([](i32 a, i32 b) { return greatest_of(least_of(a, b), 0); }), Unit::alu},
    {"max.relu.s32 d, a, b", lane<i32, i32>([](i32 a, i32 b) { return greatest_of(greatest_of(a, b), 0); }), Unit::alu},
    {"min.s16x2 d, a, b", lane<u32, u32>([](u32 a, u32 b) { return halves<i16>(a, b, least_of); }), Unit::alu},
    {"min.u16x2 d, a, b", lane<u32, u32>([](u32 a, u32 b) { return halves<u16>(a, b, least_of); }), Unit::alu},
    {"max.s16x2 d, a, b", lane<u32, u32>([](u32 a, u32 b) { return halves<i16>(a, b, greatest_of); }), Unit::alu},
    {"max.u16x2 d, a, b", lane<u32, u32>([](u32 a, u32 b) { return halves<u16>(a, b, greatest_of); }), Unit::alu},
    {"popc.{b32,b64} d:u32, a", lanes<Bits>([](auto a) { return static_cast<u32>(std::popcount(a)); }), Unit::alu},
    {"clz.{b32,b64} d:u32, a", lanes<Bits>(leading_zeros), Unit::alu},
    {"bfind.{s32,u32,s64,u64} d:u32, a", lanes<Words>(find_highest), Unit::alu},
    {"bfind.shiftamt.{s32,u32,s64,u64} d:u32, a", lanes<Words>(find_shift), Unit::alu},
    {"brev.{b32,b64} d, a", lanes<Bits>(reverse), Unit::alu},
    {"bfe.{s32,u32,s64,u64} d, a, b:u32, c:u32", lanes<Words, Self, u32, u32>(extract), Unit::alu},
    {"bfi.{b32,b64} d, a, b, c:u32, e:u32", lanes<Bits, Self, Self, u32, u32>(insert), Unit::alu},
};

}  // namespace

std::span<const Row> integer_rows() { return rows; }

}  // namespace sim
