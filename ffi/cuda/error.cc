#include "error.h"

namespace jax_fa4::cuda {
namespace {

struct Help {
  CUresult result;
  ErrorCode code;
  const char* words;
};

constexpr const char* poisoned =
    "The kernel failed, and the process can use this GPU no more: restart it. Please report the call's shapes";

// What would help, for results that a user meets.
constexpr Help helps[] = {
    {CUDA_ERROR_OUT_OF_MEMORY, ErrorCode::kResourceExhausted,
     "The GPU has no memory left beside JAX's pool: lower XLA_PYTHON_CLIENT_MEM_FRACTION, or end other processes"},
    {CUDA_ERROR_NO_DEVICE, ErrorCode::kFailedPrecondition,
     "No NVIDIA GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES, or pass implementation=\"blockwise\""},
    {CUDA_ERROR_NO_BINARY_FOR_GPU, ErrorCode::kUnimplemented,
     "The kernel was compiled for another GPU: pass implementation=\"blockwise\", or install a build for this one"},
    {CUDA_ERROR_INVALID_IMAGE, ErrorCode::kFailedPrecondition,
     "The kernel's file is damaged, or newer than the driver: install jax_fa4 again, or update NVIDIA's driver"},
    {CUDA_ERROR_INVALID_PTX, ErrorCode::kFailedPrecondition,
     "The kernel's text is not what this driver compiles: use the build's cubins, or update NVIDIA's driver"},
    {CUDA_ERROR_UNSUPPORTED_PTX_VERSION, ErrorCode::kFailedPrecondition, "Update NVIDIA's driver"},
    {CUDA_ERROR_NOT_FOUND, ErrorCode::kInternal,
     "The kernel's file and its manifest do not fit each other: build or install both again"},
    {CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, ErrorCode::kInternal,
     "The kernel needs more registers or shared memory than this GPU has free"},
    {CUDA_ERROR_INVALID_CLUSTER_SIZE, ErrorCode::kInternal,
     "The GPU cannot place a cluster of this size: is it partitioned (MIG), or shared?"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, ErrorCode::kInternal, poisoned},
    {CUDA_ERROR_MISALIGNED_ADDRESS, ErrorCode::kInternal, poisoned},
    {CUDA_ERROR_ILLEGAL_INSTRUCTION, ErrorCode::kInternal, poisoned},
    {CUDA_ERROR_LAUNCH_FAILED, ErrorCode::kInternal, poisoned},
    {CUDA_ERROR_LAUNCH_TIMEOUT, ErrorCode::kInternal, poisoned},
};

}  // namespace

void fail_call(const Driver& driver, CUresult result, const std::string& doing) {
  const char *name = nullptr, *text = nullptr;
  driver.cuGetErrorName(result, &name);
  driver.cuGetErrorString(result, &text);
  std::string words = doing + " failed: " + (name ? name : "CUresult") + " (" +
                      std::to_string(static_cast<unsigned>(result)) + (text ? std::string(": ") + text : "") + ")";
  ErrorCode code = ErrorCode::kInternal;
  for (const Help& help : helps)
    if (help.result == result) {
      words += std::string(". ") + help.words;
      code = help.code;
    }
  fail(code, words);
}

}  // namespace jax_fa4::cuda
