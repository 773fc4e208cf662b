// D (+)= A B^T on plain arrays: the only matrix arithmetic of the simulator (tcgen05.mma, wgmma).
#pragma once

#include "base.h"
#include "machine/descriptor.h"

namespace sim {

// bits: rows x depth 16-bit elements (f16 or bf16), row-major (K contiguous). Widened exactly.
void widen(Element element, const u16* bits, float* out, std::size_t count);

// d[m][n] = (accumulate ? d[m][n] : 0) + sum_k a[m][k] * b[n][k], float32 sums in order of k. a: m x depth, b: n x
// depth, d with row stride ldd. Multiversioned for the processor at run time (target_clones), no -march flags.
// Products of widened 16-bit elements are exact in float32 (but for underflow), so that processors with and without
// fused multiply-add compute the same bits.
void multiply(float* d, u32 ldd, const float* a, const float* b, u32 m, u32 n, u32 depth, bool accumulate);

}  // namespace sim
