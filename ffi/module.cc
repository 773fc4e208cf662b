// The Python extension: names and FFI handlers, and what the machine has.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "cpu/handlers.h"
#include "cpu/kernels.h"
#include "spec.h"

namespace nb = nanobind;

NB_MODULE(_ffi, module) {
  module.def("registrations", [] {
    nb::dict handlers;
    handlers["jax_fa4_cpu_forward"] = nb::capsule(reinterpret_cast<void*>(jax_fa4_cpu_forward));
    handlers["jax_fa4_cpu_backward"] = nb::capsule(reinterpret_cast<void*>(jax_fa4_cpu_backward));
    return handlers;
  });
  module.def("cpu_instruction_sets", [] { return std::string(jax_fa4::cpu::kernel_names()); });
  module.attr("CONTRACT_VERSION") = jax_fa4::contract_version;
}
