// Exact arithmetic in the four roundings (PTX ISA, "Rounding Modifiers"); the processor's mode stays as it is.
//
// Sums and products of floats are first made as doubles "rounded to odd": truncated, the last bit set when anything was
// cut off. A double has more than two bits beyond float, f16 and bf16, so rounding it once more rounds the exact sum.
// All functions are free of branches, so that loops over lanes become vector code.
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <limits>

#include "isa/lanes.h"

// Clones for processors with wider vectors. Their results are the same: nothing is contracted, and std::fma is exact.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define SIM_FOR_EVERY_PROCESSOR __attribute__((target_clones("arch=x86-64-v3", "default"), optimize("O3")))
#else
#define SIM_FOR_EVERY_PROCESSOR
#endif

namespace sim {

enum class Rounding : u8 { nearest, zero, down, up };

constexpr u32 canonical_nan = 0x7FFFFFFF;

inline u64 bits_of(double x) { return std::bit_cast<u64>(x); }
inline u32 bits_of(float x) { return std::bit_cast<u32>(x); }
inline u16 bits_of(f16 x) { return x.bits; }
inline u16 bits_of(bf16 x) { return x.bits; }

// The value of a narrow number, exactly.
inline double exact(double x) { return x; }
inline float exact(float x) { return x; }
inline float exact(bf16 x) { return std::bit_cast<float>(u32{x.bits} << 16); }
// Exponent and fraction in place are the value times 2^-112, subnormals too; infinity and NaN need their exponent.
inline float exact(f16 x) {
  const u32 sign = (x.bits & 0x8000u) << 16, magnitude = (x.bits & 0x7FFFu) << 13;
  const u32 scaled = bits_of(std::bit_cast<float>(magnitude) * 0x1p112f);
  return std::bit_cast<float>(sign | (magnitude >= 0x0F800000u ? magnitude | 0x7F800000u : scaled));
}

// To nearest even; NaN becomes the canonical one.
template <class To> To nearest(float x);
template <> inline bf16 nearest<bf16>(float x) {
  const u32 bits = bits_of(x);
  const u32 rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  return {static_cast<u16>((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FFF : rounded)};
}
template <> inline f16 nearest<f16>(float x) {
  const u32 sign = bits_of(x) >> 16 & 0x8000, magnitude = bits_of(x) & 0x7FFFFFFF;
  // The exponent's bias falls from 127 to 15.
  const u32 normal = (magnitude + 0xFFF + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
  // Adding 1/2 lets the processor round at 2^-24, the last place of subnormals.
  const u32 subnormal = bits_of(std::bit_cast<float>(magnitude) + 0.5f) - bits_of(0.5f);
  u32 rounded = magnitude < 0x38800000 ? subnormal : normal;
  rounded = magnitude >= 0x477FF000 ? 0x7C00 : rounded;
  rounded = magnitude > 0x7F800000 ? 0x7FFF : rounded | sign;
  return {static_cast<u16>(rounded)};
}
template <class To> To nearest(double x) requires std::same_as<To, float> { return static_cast<float>(x); }

// From nearest to the rounding asked for: at most one step back. NaN compares false and stays.
template <Rounding rounding, class To, class From> To round(From x) {
  const To near = nearest<To>(x);
  if constexpr (rounding == Rounding::nearest) return near;
  using Bits = decltype(bits_of(near));
  constexpr int sign_bit = 8 * sizeof(Bits) - 1;
  const From value = exact(near);
  const Bits bits = bits_of(near), negative = static_cast<Bits>(bits >> sign_bit);
  const Bits outward = static_cast<Bits>(1 - 2 * negative);
  Bits stepped = bits;
  if constexpr (rounding == Rounding::zero) stepped = static_cast<Bits>(bits - (std::fabs(value) > std::fabs(x)));
  if constexpr (rounding == Rounding::down) stepped = static_cast<Bits>(bits - (value > x ? outward : 0));
  if constexpr (rounding == Rounding::up) stepped = static_cast<Bits>(bits + (value < x ? outward : 0));
  return std::bit_cast<To>(stepped);
}

// A double rounded to odd, as a float rounded to odd.
inline float narrow_to_odd(double x) {
  const float near = static_cast<float>(x);
  u32 bits = bits_of(near);
  bits -= std::fabs(double{near}) > std::fabs(x);
  bits |= (double{near} < x) | (double{near} > x);
  return std::bit_cast<float>(bits);
}

template <Rounding rounding, class To> To round_odd(double x) {
  if constexpr (std::same_as<To, double>) return x;
  else if constexpr (std::same_as<To, float>) return round<rounding, float>(x);
  else return round<rounding, To>(narrow_to_odd(x));
}

// a + b rounded to odd (Knuth's two-sum gives what the addition lost). An exact zero of unlike signs is -0 only when
// rounding down.
template <Rounding rounding = Rounding::nearest> double sum_to_odd(double a, double b) {
  const double sum = a + b, b_part = sum - a;
  const double lost = (a - (sum - b_part)) + (b - b_part);
  const u64 inexact = (lost < 0) | (lost > 0), too_far = inexact & ((lost < 0) != (sum < 0));
  const double odd = std::bit_cast<double>((bits_of(sum) - too_far) | inexact);
  if constexpr (rounding == Rounding::down) {
    const u64 sign = (bits_of(a) | bits_of(b)) & u64{1} << 63;
    return sum == 0 ? std::bit_cast<double>(sign) : odd;
  }
  return odd;
}

// a + b in float, rounded in a direction: what the addition to nearest lost tells on which side of the sum it fell. The
// larger operand goes first, so that only the sum itself can overflow, which then has "lost" all of its infinity.
template <Rounding rounding> float directed_sum(float a, float b) {
  const bool ordered = std::fabs(a) >= std::fabs(b);
  const float large = ordered ? a : b, small = ordered ? b : a, near = large + small;
  const float finite_lost = small - (near - large);
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float lost = (std::fabs(near) == infinity) & (std::fabs(large) < infinity) ? -near : finite_lost;
  const u32 bits = bits_of(near), outward = near < 0 ? ~u32{0} : 1;
  if constexpr (rounding == Rounding::up) return std::bit_cast<float>(bits + (lost > 0 ? outward : 0));
  if constexpr (rounding == Rounding::zero)
    return std::bit_cast<float>(bits - static_cast<u32>(((near > 0) & (lost < 0)) | ((near < 0) & (lost > 0))));
  const u32 zero = (bits_of(a) | bits_of(b)) & 0x80000000;
  return std::bit_cast<float>(near == 0 ? zero : bits - (lost < 0 ? outward : 0));
}

// x rounded to an integer, as a double: fixed conversions .rni, .rzi, .rmi, .rpi.
template <Rounding rounding> double to_integer(double x) {
  if constexpr (rounding == Rounding::nearest) return std::nearbyint(x);
  if constexpr (rounding == Rounding::zero) return std::trunc(x);
  if constexpr (rounding == Rounding::down) return std::floor(x);
  if constexpr (rounding == Rounding::up) return std::ceil(x);
}

// .ftz: a subnormal is a zero of its sign.
inline float flush(float x) {
  const u32 bits = bits_of(x);
  return std::bit_cast<float>((bits & 0x7F800000) == 0 ? bits & 0x80000000 : bits);
}
inline f16 flush(f16 x) { return {static_cast<u16>((x.bits & 0x7C00) == 0 ? x.bits & 0x8000 : x.bits)}; }

// .sat: into [0, 1], NaN to +0.
inline float saturate(float x) {
  const float low = x > 0.0f ? x : 0.0f;
  return low < 1.0f ? low : 1.0f;
}

// Arithmetic on floats answers every NaN with this one.
inline float canonical(float x) {
  const u32 bits = bits_of(x);
  return std::bit_cast<float>((bits & 0x7FFFFFFF) > 0x7F800000 ? canonical_nan : bits);
}
inline double canonical(double x) { return x; }

// Flags of a spelling as template arguments: next is called with std::true_type or std::false_type.
template <class Next> Execute with_flag(bool flag, Next next) {
  return flag ? next(std::true_type{}) : next(std::false_type{});
}

template <Rounding value> using RoundingConstant = std::integral_constant<Rounding, value>;
template <class Next> Execute with_rounding(const Spelling& spelling, Next next) {
  if (spelling.has("rz") || spelling.has("rzi")) return next(RoundingConstant<Rounding::zero>{});
  if (spelling.has("rm") || spelling.has("rmi")) return next(RoundingConstant<Rounding::down>{});
  if (spelling.has("rp") || spelling.has("rpi")) return next(RoundingConstant<Rounding::up>{});
  return next(RoundingConstant<Rounding::nearest>{});
}

}  // namespace sim
