// Which instruction set runs.
#include <cstdlib>
#include <string>

#include "kernels.h"

namespace jax_fa4::cpu {

extern const Kernels generic;
#if defined(__x86_64__)
extern const Kernels amx, avx512bf16, avx512, avx2;
#endif

namespace {

const Kernels* const by_preference[] = {
#if defined(__x86_64__)
    &amx,
    &avx512bf16,
    &avx512,
    &avx2,
#endif
    &generic,
};

bool preferred(const Kernels& kernels) { return !kernels.preferred || kernels.preferred(); }

}  // namespace

// The environment is read at each call: tests run every instruction set of the machine in one process.
const Kernels* chosen_kernels() {
  const char* wanted = std::getenv("JAX_FA4_CPU_ISA");
  const bool any = !wanted || !*wanted;
  for (const Kernels* kernels : by_preference)
    if ((any ? preferred(*kernels) : std::string(wanted) == kernels->name) && kernels->supported()) return kernels;
  return nullptr;
}

const char* kernel_names() {
  static const std::string names = [] {
    std::string list;
    for (const bool first : {true, false})
      for (const Kernels* kernels : by_preference)
        if (preferred(*kernels) == first && kernels->supported())
          list += (list.empty() ? "" : ", ") + std::string(kernels->name);
    return list;
  }();
  return names.c_str();
}

}  // namespace jax_fa4::cpu
