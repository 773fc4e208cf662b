// Kernels and functions: handles and attributes (CUDA driver API, CUfunction_attribute).
#include <charconv>

#include "driver/state.h"

namespace sim::driver {
namespace {

std::string number(CUfunction_attribute attribute) { return std::to_string(static_cast<unsigned>(attribute)); }

// "sm_100a" -> 100: the documented major * 10 + minor.
int architecture(const std::string& target) {
  int value = 0;
  if (target.starts_with("sm_")) std::from_chars(target.data() + 3, target.data() + target.size(), value);
  return value;
}

int max_threads(const Program& program, const Device& device) {
  if (const u64 required = program.required_threads.volume(); required > 0) return static_cast<int>(required);
  return program.max_threads > 0 ? static_cast<int>(program.max_threads)
                                 : *device.find(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
}

int get(const Kernel& kernel, CUfunction_attribute attribute, const Device& device) {
  const Program& program = *kernel.program;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return max_threads(program, device);
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: return static_cast<int>(program.static_shared_bytes);
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: return architecture(program.target);
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: return kernel.max_dynamic_shared;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: return kernel.carveout;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED: return kernel.non_portable_cluster;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE: return kernel.scheduling_policy;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH: return 0;
    // ptxas decides these: an invented number would mislead.
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      refuse(CUDA_ERROR_NOT_SUPPORTED, "function attribute " + number(attribute) + " is unknown without machine code");
  }
  refuse(CUDA_ERROR_INVALID_VALUE, "the stand-in knows no function attribute " + number(attribute));
}

int within(int value, int least, int most, const char* name) {
  if (value < least || value > most)
    refuse(CUDA_ERROR_INVALID_VALUE, std::string(name) + " must be from " + std::to_string(least) + " to " +
                                         std::to_string(most) + ", got " + std::to_string(value));
  return value;
}

void set(Kernel& kernel, CUfunction_attribute attribute, int value, const Device& device) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: {
      const u32 most = device.get(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
      kernel.max_dynamic_shared = within(value, 0, static_cast<int>(most - kernel.program->static_shared_bytes),
                                         "MAX_DYNAMIC_SHARED_SIZE_BYTES");
      return;
    }
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      kernel.carveout = within(value, -1, 100, "PREFERRED_SHARED_MEMORY_CARVEOUT");
      return;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
      kernel.non_portable_cluster = within(value, 0, 1, "NON_PORTABLE_CLUSTER_SIZE_ALLOWED");
      return;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      kernel.scheduling_policy = within(value, 0, 2, "CLUSTER_SCHEDULING_POLICY_PREFERENCE");
      return;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
      refuse(CUDA_ERROR_NOT_SUPPORTED, "give the cluster with the launch");
    default:
      refuse(CUDA_ERROR_INVALID_VALUE, "function attribute " + number(attribute) + " cannot be set");
  }
}

std::shared_ptr<Kernel> find(const State& state, CUkernel kernel) {
  auto found = state.kernels.find(kernel);
  if (!found)
    refuse(CUDA_ERROR_INVALID_HANDLE, "kernel " + hexadecimal(reinterpret_cast<u64>(kernel)) + " does not exist");
  return found;
}

}  // namespace

CUresult cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  return answer("cuKernelGetFunction", [&] {
    Locked state = initialised();
    check_pointer(function, "pFunc");
    const auto found = find(*state, kernel);
    state->check_context();
    // After a reset of the context the old function is gone and gets a new handle.
    if (!found->function || !state->functions.find(found->function))
      found->function = state->functions.add(found, state->next_handle);
    *function = found->function;
  });
}

CUresult cuKernelGetAttribute(int* value, CUfunction_attribute attribute, CUkernel kernel, CUdevice device) {
  return answer("cuKernelGetAttribute", [&] {
    Locked state = initialised();
    check_pointer(value, "pi");
    state->check_device(device);
    *value = get(*find(*state, kernel), attribute, *state->device);
  });
}

CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice device) {
  return answer("cuKernelSetAttribute", [&] {
    Locked state = initialised();
    state->check_device(device);
    set(*find(*state, kernel), attribute, value, *state->device);
  });
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  return answer("cuFuncGetAttribute", [&] {
    Locked state = initialised();
    check_pointer(value, "pi");
    state->check_context();
    *value = get(*state->kernel_of(function), attribute, *state->device);
  });
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  return answer("cuFuncSetAttribute", [&] {
    Locked state = initialised();
    state->check_context();
    set(*state->kernel_of(function), attribute, value, *state->device);
  });
}

}  // namespace sim::driver
