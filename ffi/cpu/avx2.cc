// Kernels for x86-64 with AVX2 and FMA.
#include "kernels.h"

namespace {
constexpr int vector_bytes = 32;
constexpr int registers = 16;
}  // namespace

#include "unit.h"

namespace jax_fa4::cpu {
namespace {
bool supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
}  // namespace

extern const Kernels avx2 = unit<FmaEngines<float>>("avx2", supported);

}  // namespace jax_fa4::cpu
