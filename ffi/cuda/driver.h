// The CUDA driver: found when it is first needed, so that importing and building need nothing of it.
#pragma once

#include <string>

#include "driver_abi.h"

namespace jax_fa4::cuda {

// The calls that this library makes, all documented.
#define JAX_FA4_CUDA_NEEDED(NAME)                                                                                    \
  NAME(cuInit) NAME(cuDriverGetVersion) NAME(cuGetErrorName) NAME(cuGetErrorString)                                  \
  NAME(cuDeviceGet) NAME(cuDeviceGetAttribute) NAME(cuDeviceGetName)                                                 \
  NAME(cuDevicePrimaryCtxRetain) NAME(cuDevicePrimaryCtxRelease_v2)                                                  \
  NAME(cuCtxPushCurrent_v2) NAME(cuCtxPopCurrent_v2) NAME(cuCtxGetDevice) NAME(cuCtxSynchronize)                     \
  NAME(cuStreamGetCtx) NAME(cuModuleLoadData) NAME(cuModuleGetFunction)                                              \
  NAME(cuFuncSetAttribute) NAME(cuLaunchKernelEx) NAME(cuTensorMapEncodeTiled)                                       \
  NAME(cuMemHostRegister_v2) NAME(cuMemHostUnregister)

struct Driver {
  std::string path;  // as the loader was asked for it
  int version = 0;   // 12080 is CUDA 12.8

#define JAX_FA4_CUDA_POINTER(name) call::name* name = nullptr;
  JAX_FA4_CUDA_NEEDED(JAX_FA4_CUDA_POINTER)
#undef JAX_FA4_CUDA_POINTER
};

// Whether JAX_FA4_CUDA_DRIVER names a driver to use in place of the machine's own.
bool driver_is_named();

// The driver that JAX_FA4_CUDA_DRIVER names, or libcuda.so.1; initialised. Throws Failure. Never unloaded.
const Driver& the_driver();

// "12.8" of 12080.
std::string version_text(int version);

}  // namespace jax_fa4::cuda
