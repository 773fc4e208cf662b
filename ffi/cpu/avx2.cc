// Kernels for x86-64 with AVX2, FMA and F16C.
#include "kernels.h"

namespace {
constexpr int vector_bytes = 32;
constexpr int registers = 16;
}  // namespace

#include "unit.h"

namespace jax_fa4::cpu {
namespace {
bool supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
}  // namespace

extern const Kernels avx2 = unit<FmaEngines<float>>("avx2", supported);

}  // namespace jax_fa4::cpu
