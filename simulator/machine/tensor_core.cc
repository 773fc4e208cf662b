// The matrix product on the host's vector unit: panels of 16 columns of B, tiles of 6 rows in registers.
#include "machine/tensor_core.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

// The tiles need full unrolling. -std=c++20 forbids fused multiply-add where it is not spelled out; here it changes
// no bit (see the header) and doubles the speed.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3", "fp-contract=fast")
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define SIM_FOR_EVERY_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SIM_FOR_EVERY_PROCESSOR
#endif
// What clones call must be inlined into them, or it would run without their instructions.
#define SIM_INLINE [[gnu::always_inline]] inline

namespace sim {
namespace {

constexpr u32 columns = 16, most_depth = 64, tile_rows = 6;
using Columns = float __attribute__((vector_size(columns * sizeof(float))));

// Column n of the panel is row n of B; columns beyond `used` are zeros.
SIM_INLINE void pack(float (*panel)[columns], const float* b, u32 ldb, u32 used, u32 depth) {
  for (u32 k = 0; k < depth; ++k)
    for (u32 n = 0; n < columns; ++n) panel[k][n] = n < used ? b[std::size_t{n} * ldb + k] : 0.0f;
}

// `rows` rows of D, (+)= those of A times one panel. 6 x 16 floats stay in the registers of AVX2 as well as AVX-512.
// A last panel that is narrower than 16 columns moves only those to and from D.
template <u32 rows>
SIM_INLINE void tile(float* d, u32 ldd, const float* a, u32 lda, const float (*panel)[columns], u32 used, u32 depth,
                     bool accumulate) {
  Columns sum[rows] = {};
  if (accumulate)
    for (u32 row = 0; row < rows; ++row) {
      if (used == columns) std::memcpy(&sum[row], d + std::size_t{row} * ldd, sizeof sum[row]);
      else std::memcpy(&sum[row], d + std::size_t{row} * ldd, used * sizeof(float));
    }
  for (u32 k = 0; k < depth; ++k) {
    Columns b;
    std::memcpy(&b, panel[k], sizeof b);
    for (u32 row = 0; row < rows; ++row) sum[row] += a[std::size_t{row} * lda + k] * b;
  }
  for (u32 row = 0; row < rows; ++row) {
    if (used == columns) std::memcpy(d + std::size_t{row} * ldd, &sum[row], sizeof sum[row]);
    else std::memcpy(d + std::size_t{row} * ldd, &sum[row], used * sizeof(float));
  }
}

SIM_INLINE void widen_bf16(const u16* bits, float* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = std::bit_cast<float>(u32{bits[i]} << 16);
}

// The exponent and fraction moved into place are the value times 2^-112, subnormals included; infinity and NaN need
// their exponent.
SIM_INLINE void widen_f16(const u16* bits, float* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const u32 sign = (bits[i] & 0x8000u) << 16, magnitude = (bits[i] & 0x7FFFu) << 13;
    const u32 scaled = std::bit_cast<u32>(std::bit_cast<float>(magnitude) * 0x1p112f);
    out[i] = std::bit_cast<float>(sign | (magnitude >= 0x0F800000u ? magnitude | 0x7F800000u : scaled));
  }
}

}  // namespace

SIM_FOR_EVERY_PROCESSOR
void widen(Element element, const u16* bits, float* out, std::size_t count) {
  assert(element != Element::f32);
  if (element == Element::bf16) widen_bf16(bits, out, count);
  else widen_f16(bits, out, count);
}

SIM_FOR_EVERY_PROCESSOR
void multiply(float* d, u32 ldd, const float* a, const float* b, u32 m, u32 n, u32 depth, bool accumulate) {
  float panel[most_depth][columns];
  for (u32 column = 0; column < n; column += columns) {
    const u32 used = std::min(columns, n - column);
    for (u32 k = 0; k < depth; k += most_depth) {
      const u32 part = std::min(most_depth, depth - k);
      const bool add = accumulate || k > 0;
      pack(panel, b + std::size_t{column} * depth + k, depth, used, part);
      u32 row = 0;
      const auto rows_at = [&](u32 first) { return a + std::size_t{first} * depth + k; };
      const auto d_at = [&](u32 first) { return d + std::size_t{first} * ldd + column; };
      for (; row + tile_rows <= m; row += tile_rows)
        tile<tile_rows>(d_at(row), ldd, rows_at(row), depth, panel, used, part, add);
      for (; row + 2 <= m; row += 2) tile<2>(d_at(row), ldd, rows_at(row), depth, panel, used, part, add);
      for (; row < m; ++row) tile<1>(d_at(row), ldd, rows_at(row), depth, panel, used, part, add);
    }
  }
}

}  // namespace sim
