// The error codes that the stand-in returns, with their names and a few words, as rows.
#pragma once

#include "../../ffi/cuda/driver_abi.h"

namespace sim::driver {

struct ErrorRow {
  jax_fa4::cuda::CUresult code;
  const char* name;
  const char* words;
};

#define JAX_FA4_ERROR_ROW(code, words) {jax_fa4::cuda::code, #code, words}
inline constexpr ErrorRow error_rows[] = {
    JAX_FA4_ERROR_ROW(CUDA_SUCCESS, "no error"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_DEINITIALIZED, "the driver is shutting down"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_NO_DEVICE, "no device"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_INVALID_DEVICE, "no such device"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_INVALID_IMAGE, "the image is not a kernel image"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_INVALID_CONTEXT, "no valid context is current"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_NO_BINARY_FOR_GPU, "the image has no kernel for this device"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_INVALID_PTX, "the PTX cannot be compiled"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "the PTX is newer than the driver"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_INVALID_HANDLE, "invalid handle"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_NOT_FOUND, "no such name"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_NOT_READY, "not ready"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_ILLEGAL_ADDRESS, "a kernel touched memory that it may not touch"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "the launch needs more than the device has"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_LAUNCH_TIMEOUT, "a kernel did not end"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context is destroyed"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "the memory is already registered"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "the memory is not registered"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_ILLEGAL_INSTRUCTION, "a kernel executed an illegal instruction"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_MISALIGNED_ADDRESS, "a kernel used a misaligned address"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_LAUNCH_FAILED, "a kernel failed"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_TENSOR_MEMORY_LEAK, "a kernel ended without freeing its tensor memory"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_NOT_SUPPORTED, "not supported"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_INVALID_CLUSTER_SIZE, "the cluster does not fit the launch"),
    JAX_FA4_ERROR_ROW(CUDA_ERROR_UNKNOWN, "unknown error"),
};
#undef JAX_FA4_ERROR_ROW

}  // namespace sim::driver
