// Kernels for x86-64 with AVX-512 (F, BW, DQ, VL) and AVX512-BF16.
#include "kernels.h"

namespace {
constexpr int vector_bytes = 64;
constexpr int registers = 32;
}  // namespace

#include "unit.h"
#include "pairs.h"

namespace jax_fa4::cpu {
namespace {
bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bf16");
}

// Intel's cores run vdpbf16ps at half the rate of float32's multiply-adds for twice the work, AMD's at the same rate.
bool preferred() { return __builtin_cpu_is("amd"); }
}  // namespace

extern const Kernels avx512bf16 = unit<DotEngines>("avx512bf16", supported, preferred);

}  // namespace jax_fa4::cpu
