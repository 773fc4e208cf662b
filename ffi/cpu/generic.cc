// Kernels for any machine: vectors of 16 bytes, which the compiler's default instruction set has everywhere (SSE2, NEON).
#include "kernels.h"

namespace {
constexpr int vector_bytes = 16;
#if defined(__aarch64__)
constexpr int registers = 32;
#else
constexpr int registers = 16;
#endif
}  // namespace

#include "unit.h"

namespace jax_fa4::cpu {
namespace {
bool supported() { return true; }
}  // namespace

#if defined(__aarch64__)
extern const Kernels generic = unit<FmaEngines<float>>("neon", supported);
#else
extern const Kernels generic = unit<FmaEngines<float>>("generic", supported);
#endif

}  // namespace jax_fa4::cpu
