// The calls that the stand-in exports, declared from the one list; each is defined in the file of its subject.
#pragma once

#include "../../ffi/cuda/driver_abi.h"

namespace sim::driver {

using namespace jax_fa4::cuda;

extern "C" {
#define JAX_FA4_EXPORT_CALL(name, parameters) __attribute__((visibility("default"))) CUresult name parameters;
JAX_FA4_CUDA_CALLS(JAX_FA4_EXPORT_CALL)
#undef JAX_FA4_EXPORT_CALL
}

}  // namespace sim::driver
