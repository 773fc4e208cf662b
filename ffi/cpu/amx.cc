// Kernels for x86-64 with AVX-512 (F, BW, DQ, VL, BF16) and AMX-BF16.
#include "kernels.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {
constexpr int vector_bytes = 64;
constexpr int registers = 32;
}  // namespace

#include "unit.h"
#include "pairs.h"
#include "amx.h"

namespace jax_fa4::cpu {
namespace {
bool exists() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("amx-tile") &&
         __builtin_cpu_supports("amx-bf16");
}

// Linux gives a process tile registers when it asks, for all its threads.
bool permitted() {
#if defined(__linux__)
  constexpr int request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

bool supported() {
  static const bool answer = exists() && permitted();
  return answer;
}
}  // namespace

extern const Kernels amx = unit<AmxEngines>("amx", supported);

}  // namespace jax_fa4::cpu
