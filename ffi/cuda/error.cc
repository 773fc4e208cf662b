#include "error.h"

namespace jax_fa4::cuda {
namespace {

struct Help {
  CUresult result;
  ErrorCode code;
  const char* words;
};

// An error of an asynchronous launch comes out of a later call.
constexpr const char* poisoned =
    "A kernel on this GPU failed, this one or one before it, and the process can use the GPU no more: restart it. "
    "Where it was this one, please report the call's shapes";
constexpr const char* captured =
    "A CUDA graph was being captured, and kernels cannot be loaded then: this XLA skips the stage in which they are "
    "(initialize). Run the function once before it is captured, or turn command buffers off with "
    "XLA_FLAGS=--xla_gpu_enable_command_buffer=";
constexpr const char* other =
    "No remedy is known: please report it with the call's shapes. implementation=\"blockwise\" needs no kernel";

// What would help.
constexpr Help helps[] = {
    {CUDA_ERROR_OUT_OF_MEMORY, ErrorCode::kResourceExhausted,
     "The GPU has no memory left beside JAX's pool: lower XLA_PYTHON_CLIENT_MEM_FRACTION, or end other processes"},
    {CUDA_ERROR_NOT_INITIALIZED, ErrorCode::kFailedPrecondition,
     "The driver does not work in a process that was forked after its first use: start processes by spawn"},
    {CUDA_ERROR_DEINITIALIZED, ErrorCode::kFailedPrecondition, "The process is ending: call before it does"},
    {CUDA_ERROR_DEVICE_UNAVAILABLE, ErrorCode::kUnavailable,
     "Another process has the GPU for itself: see nvidia-smi (compute mode), or choose another GPU"},
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
     "The kernel needs more registers or shared memory than this GPU has free: pass implementation=\"blockwise\""},
    {CUDA_ERROR_INVALID_CLUSTER_SIZE, ErrorCode::kInternal,
     "The GPU cannot place a cluster of this size: is it partitioned (MIG), or shared?"},
    {CUDA_ERROR_SYSTEM_NOT_READY, ErrorCode::kUnavailable,
     "The GPUs' fabric is not up: start nvidia-fabricmanager, or wait until it has started"},
    {CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, ErrorCode::kFailedPrecondition,
     "NVIDIA's kernel module and libcuda.so.1 are of different versions: restart the machine, or install both again"},
    {CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE, ErrorCode::kFailedPrecondition,
     "CUDA's compatibility libraries do not serve this GPU: take them off LD_LIBRARY_PATH, or update NVIDIA's driver"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, ErrorCode::kFailedPrecondition, captured},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, ErrorCode::kFailedPrecondition, captured},
    {CUDA_ERROR_ECC_UNCORRECTABLE, ErrorCode::kInternal,
     "The GPU's memory lost data: restart the process; see nvidia-smi, and replace a GPU that does so again"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, ErrorCode::kInternal, poisoned},
    {CUDA_ERROR_MISALIGNED_ADDRESS, ErrorCode::kInternal, poisoned},
    {CUDA_ERROR_ILLEGAL_INSTRUCTION, ErrorCode::kInternal, poisoned},
    {CUDA_ERROR_LAUNCH_FAILED, ErrorCode::kInternal, poisoned},
    {CUDA_ERROR_LAUNCH_TIMEOUT, ErrorCode::kInternal, poisoned},
    {CUDA_ERROR_TENSOR_MEMORY_LEAK, ErrorCode::kInternal, poisoned},
};

Help help_for(CUresult result) {
  for (const Help& help : helps)
    if (help.result == result) return help;
  return {result, ErrorCode::kInternal, other};
}

}  // namespace

void fail_call(const Driver& driver, CUresult result, const std::string& doing) {
  const char *name = nullptr, *text = nullptr;
  driver.cuGetErrorName(result, &name);
  driver.cuGetErrorString(result, &text);
  const Help help = help_for(result);
  fail(help.code, doing + " failed: " + (name ? name : "CUresult") + " (" +
                      std::to_string(static_cast<unsigned>(result)) + (text ? std::string(": ") + text : "") + "). " +
                      help.words);
}

}  // namespace jax_fa4::cuda
