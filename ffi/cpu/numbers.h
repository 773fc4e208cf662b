// Small functions of whole numbers, in place of the standard library's: a unit may export nothing but its kernels.
#pragma once

namespace {

JAX_FA4_INLINE constexpr int64_t clamped(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }
JAX_FA4_INLINE constexpr int64_t least(int64_t a, int64_t b) { return b < a ? b : a; }
JAX_FA4_INLINE constexpr int64_t most(int64_t a, int64_t b) { return b > a ? b : a; }
JAX_FA4_INLINE constexpr int64_t rounded_down(int64_t x, int64_t step) { return x / step * step; }
JAX_FA4_INLINE constexpr int64_t rounded_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

}  // namespace
