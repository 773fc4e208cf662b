// Kernels for x86-64 with AVX-512 (F, BW, DQ, VL).
#include "kernels.h"

namespace {
constexpr int vector_bytes = 64;
constexpr int registers = 32;
}  // namespace

#include "unit.h"

namespace jax_fa4::cpu {
namespace {
bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
}  // namespace

extern const Kernels avx512 = unit<FmaEngines<float>>("avx512", supported);

}  // namespace jax_fa4::cpu
