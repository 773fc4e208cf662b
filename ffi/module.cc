// The Python extension: names and FFI handlers, what the machine has, and the rows of compiled GPU kernels.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "cpu/handlers.h"
#include "cpu/kernels.h"
#include "cuda/handlers.h"
#include "cuda/variants.h"
#include "spec.h"

namespace nb = nanobind;

namespace {

nb::dict stages(XLA_FFI_Handler* execute, XLA_FFI_Handler* initialize = nullptr) {
  nb::dict handlers;
  handlers["execute"] = nb::capsule(reinterpret_cast<void*>(execute));
  if (initialize) handlers["initialize"] = nb::capsule(reinterpret_cast<void*>(initialize));
  return handlers;
}

}  // namespace

NB_MODULE(_ffi, module) {
  module.def("registrations", [] {
    nb::dict cpu, cuda, platforms;
    cpu["jax_fa4_cpu_forward"] = stages(jax_fa4_cpu_forward);
    cpu["jax_fa4_cpu_backward"] = stages(jax_fa4_cpu_backward);
    cpu["jax_fa4_sim_forward"] = stages(jax_fa4_sim_forward);
    cuda["jax_fa4_cuda_forward"] = stages(jax_fa4_cuda_forward, jax_fa4_cuda_forward_initialize);
    platforms["cpu"] = cpu;
    platforms["CUDA"] = cuda;
    return platforms;
  });
  module.def("cpu_instruction_sets", [] { return std::string(jax_fa4::cpu::kernel_names()); });
  module.def("register_variants", &jax_fa4::cuda::register_variants);
  module.attr("CONTRACT_VERSION") = jax_fa4::contract_version;
}
