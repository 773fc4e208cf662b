// The documented calls, structures and constants of the CUDA driver API that this project uses: own declarations, so
// that no CUDA header is needed to build. A test compares sizes, offsets and values with the real cuda.h where one is.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jax_fa4::cuda {

using CUdevice = int;
using CUdeviceptr = std::uint64_t;
using CUcontext = struct CUctx_st*;
using CUstream = struct CUstream_st*;
using CUlibrary = struct CUlib_st*;
using CUkernel = struct CUkern_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;

enum CUresult : unsigned {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NOT_INITIALIZED = 3,
  CUDA_ERROR_DEINITIALIZED = 4,
  CUDA_ERROR_DEVICE_UNAVAILABLE = 46,
  CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_INVALID_DEVICE = 101,
  CUDA_ERROR_INVALID_IMAGE = 200,
  CUDA_ERROR_INVALID_CONTEXT = 201,
  CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
  CUDA_ERROR_ECC_UNCORRECTABLE = 214,
  CUDA_ERROR_INVALID_PTX = 218,
  CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222,
  CUDA_ERROR_INVALID_HANDLE = 400,
  CUDA_ERROR_NOT_FOUND = 500,
  CUDA_ERROR_NOT_READY = 600,
  CUDA_ERROR_ILLEGAL_ADDRESS = 700,
  CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
  CUDA_ERROR_LAUNCH_TIMEOUT = 702,
  CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
  CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED = 712,
  CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED = 713,
  CUDA_ERROR_ILLEGAL_INSTRUCTION = 715,
  CUDA_ERROR_MISALIGNED_ADDRESS = 716,
  CUDA_ERROR_LAUNCH_FAILED = 719,
  CUDA_ERROR_TENSOR_MEMORY_LEAK = 721,
  CUDA_ERROR_NOT_SUPPORTED = 801,
  CUDA_ERROR_SYSTEM_NOT_READY = 802,
  CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803,
  CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE = 804,
  CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
  CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
  CUDA_ERROR_INVALID_CLUSTER_SIZE = 912,
  CUDA_ERROR_UNKNOWN = 999,
};

enum CUdevice_attribute : unsigned {
  CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 1,
  CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X = 2,
  CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y = 3,
  CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z = 4,
  CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X = 5,
  CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y = 6,
  CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z = 7,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK = 8,
  CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY = 9,
  CU_DEVICE_ATTRIBUTE_WARP_SIZE = 10,
  CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK = 12,
  CU_DEVICE_ATTRIBUTE_CLOCK_RATE = 13,
  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
  CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT = 17,
  CU_DEVICE_ATTRIBUTE_INTEGRATED = 18,
  CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY = 19,
  CU_DEVICE_ATTRIBUTE_COMPUTE_MODE = 20,
  CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS = 31,
  CU_DEVICE_ATTRIBUTE_ECC_ENABLED = 32,
  CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH = 37,
  CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE = 38,
  CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR = 39,
  CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING = 41,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR = 81,
  CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR = 82,
  CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS = 88,
  CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM = 91,
  CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH = 95,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
  CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED = 99,
  CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR = 106,
  CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK = 111,
  CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED = 113,
  CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH = 120,
  CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED = 127,
};

enum CUfunction_attribute : unsigned {
  CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 0,
  CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1,
  CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES = 2,
  CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES = 3,
  CU_FUNC_ATTRIBUTE_NUM_REGS = 4,
  CU_FUNC_ATTRIBUTE_PTX_VERSION = 5,
  CU_FUNC_ATTRIBUTE_BINARY_VERSION = 6,
  CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
  CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT = 9,
  CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET = 10,
  CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH = 11,
  CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT = 12,
  CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH = 13,
  CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14,
  CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE = 15,
};

enum CUlaunchAttributeID : unsigned {
  CU_LAUNCH_ATTRIBUTE_IGNORE = 0,
  CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW = 1,
  CU_LAUNCH_ATTRIBUTE_COOPERATIVE = 2,
  CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY = 3,
  CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4,
  CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE = 5,
  CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6,
  CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT = 7,
  CU_LAUNCH_ATTRIBUTE_PRIORITY = 8,
  CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP = 9,
  CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN = 10,
  CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION = 11,
  CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT = 12,
  CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE = 13,
  CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT = 14,
};

enum CUjit_option : unsigned {
  CU_JIT_INFO_LOG_BUFFER = 3,
  CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES = 4,
  CU_JIT_ERROR_LOG_BUFFER = 5,
  CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6,
  CU_JIT_SPLIT_COMPILE = 34,  // the last one that is documented
};

enum CUlibraryOption : unsigned {
  CU_LIBRARY_BINARY_IS_PRESERVED = 1,
};

enum CUtensorMapDataType : unsigned {
  CU_TENSOR_MAP_DATA_TYPE_UINT8 = 0,
  CU_TENSOR_MAP_DATA_TYPE_UINT16 = 1,
  CU_TENSOR_MAP_DATA_TYPE_UINT32 = 2,
  CU_TENSOR_MAP_DATA_TYPE_INT32 = 3,
  CU_TENSOR_MAP_DATA_TYPE_UINT64 = 4,
  CU_TENSOR_MAP_DATA_TYPE_INT64 = 5,
  CU_TENSOR_MAP_DATA_TYPE_FLOAT16 = 6,
  CU_TENSOR_MAP_DATA_TYPE_FLOAT32 = 7,
  CU_TENSOR_MAP_DATA_TYPE_FLOAT64 = 8,
  CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9,
  CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ = 10,
  CU_TENSOR_MAP_DATA_TYPE_TFLOAT32 = 11,
  CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ = 12,
  CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN8B = 13,
  CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B = 15,
};

enum CUtensorMapInterleave : unsigned {
  CU_TENSOR_MAP_INTERLEAVE_NONE = 0,
  CU_TENSOR_MAP_INTERLEAVE_16B = 1,
  CU_TENSOR_MAP_INTERLEAVE_32B = 2,
};

enum CUtensorMapSwizzle : unsigned {
  CU_TENSOR_MAP_SWIZZLE_NONE = 0,
  CU_TENSOR_MAP_SWIZZLE_32B = 1,
  CU_TENSOR_MAP_SWIZZLE_64B = 2,
  CU_TENSOR_MAP_SWIZZLE_128B = 3,
};

enum CUtensorMapL2promotion : unsigned {
  CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3,
};

enum CUtensorMapFloatOOBfill : unsigned {
  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0,
};

enum CUdriverProcAddressQueryResult : unsigned {
  CU_GET_PROC_ADDRESS_SUCCESS = 0,
  CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND = 1,
  CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT = 2,
};

// Macros in cuda.h, therefore under names of our own.
constexpr unsigned stream_non_blocking = 1;        // CU_STREAM_NON_BLOCKING
constexpr unsigned register_portable = 1;          // CU_MEMHOSTREGISTER_PORTABLE
constexpr unsigned register_device_map = 2;        // CU_MEMHOSTREGISTER_DEVICEMAP
constexpr unsigned register_read_only = 8;         // CU_MEMHOSTREGISTER_READ_ONLY
constexpr std::uintptr_t stream_legacy = 1;        // CU_STREAM_LEGACY
constexpr std::uintptr_t stream_per_thread = 2;    // CU_STREAM_PER_THREAD
constexpr std::uintptr_t launch_param_end = 0;     // CU_LAUNCH_PARAM_END
constexpr std::uintptr_t launch_param_pointer = 1; // CU_LAUNCH_PARAM_BUFFER_POINTER
constexpr std::uintptr_t launch_param_size = 2;    // CU_LAUNCH_PARAM_BUFFER_SIZE

// Aligned to 128 since CUDA 13 and to 64 before: the larger serves both. The call itself asks for 64.
struct alignas(128) CUtensorMap {
  std::uint64_t opaque[16];
};

union CUlaunchAttributeValue {
  char pad[64];
  int cooperative;
  struct {
    unsigned x, y, z;
  } clusterDim;
  int programmaticStreamSerializationAllowed;
  int priority;
};

struct CUlaunchAttribute {
  CUlaunchAttributeID id;
  char pad[4];
  CUlaunchAttributeValue value;
};

struct CUlaunchConfig {
  unsigned gridDimX, gridDimY, gridDimZ;
  unsigned blockDimX, blockDimY, blockDimZ;
  unsigned sharedMemBytes;
  CUstream hStream;
  CUlaunchAttribute* attrs;
  unsigned numAttrs;
};

// The calls, under the names that the library exports: cuda.h maps the short names to these by macro (cuMemAlloc is
// cuMemAlloc_v2), so a look-up of the short name would find the old function behind the new prototype.
#define JAX_FA4_CUDA_CALLS(CALL)                                                                                       \
  CALL(cuInit, (unsigned flags))                                                                                       \
  CALL(cuDriverGetVersion, (int* version))                                                                             \
  CALL(cuGetErrorName, (CUresult error, const char** text))                                                            \
  CALL(cuGetErrorString, (CUresult error, const char** text))                                                          \
  CALL(cuGetProcAddress_v2, (const char* symbol, void** function, int version, std::uint64_t flags,                    \
                             CUdriverProcAddressQueryResult* status))                                                  \
  CALL(cuDeviceGetCount, (int* count))                                                                                 \
  CALL(cuDeviceGet, (CUdevice * device, int ordinal))                                                                  \
  CALL(cuDeviceGetAttribute, (int* value, CUdevice_attribute attribute, CUdevice device))                              \
  CALL(cuDeviceGetName, (char* name, int length, CUdevice device))                                                     \
  CALL(cuDeviceTotalMem_v2, (std::size_t* bytes, CUdevice device))                                                     \
  CALL(cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device))                                               \
  CALL(cuDevicePrimaryCtxRelease_v2, (CUdevice device))                                                                \
  CALL(cuCtxSetCurrent, (CUcontext context))                                                                           \
  CALL(cuCtxGetCurrent, (CUcontext * context))                                                                         \
  CALL(cuCtxPushCurrent_v2, (CUcontext context))                                                                       \
  CALL(cuCtxPopCurrent_v2, (CUcontext * context))                                                                      \
  CALL(cuCtxGetDevice, (CUdevice * device))                                                                            \
  CALL(cuCtxSynchronize, ())                                                                                           \
  CALL(cuStreamCreate, (CUstream * stream, unsigned flags))                                                            \
  CALL(cuStreamDestroy_v2, (CUstream stream))                                                                          \
  CALL(cuStreamSynchronize, (CUstream stream))                                                                         \
  CALL(cuStreamGetCtx, (CUstream stream, CUcontext * context))                                                         \
  CALL(cuLibraryLoadData, (CUlibrary * library, const void* code, CUjit_option* options, void** values,                \
                           unsigned count, CUlibraryOption* library_options, void** library_values,                    \
                           unsigned library_count))                                                                    \
  CALL(cuLibraryUnload, (CUlibrary library))                                                                           \
  CALL(cuLibraryGetKernel, (CUkernel * kernel, CUlibrary library, const char* name))                                   \
  CALL(cuKernelGetFunction, (CUfunction * function, CUkernel kernel))                                                  \
  CALL(cuKernelGetAttribute, (int* value, CUfunction_attribute attribute, CUkernel kernel, CUdevice device))           \
  CALL(cuKernelSetAttribute, (CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice device))            \
  CALL(cuFuncGetAttribute, (int* value, CUfunction_attribute attribute, CUfunction function))                          \
  CALL(cuFuncSetAttribute, (CUfunction function, CUfunction_attribute attribute, int value))                           \
  CALL(cuModuleLoadData, (CUmodule * module, const void* image))                                                       \
  CALL(cuModuleGetFunction, (CUfunction * function, CUmodule module, const char* name))                                \
  CALL(cuModuleUnload, (CUmodule module))                                                                              \
  CALL(cuLaunchKernelEx, (const CUlaunchConfig* config, CUfunction function, void** parameters, void** extra))         \
  CALL(cuLaunchKernel, (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,      \
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters, \
                        void** extra))                                                                                 \
  CALL(cuTensorMapEncodeTiled,                                                                                         \
       (CUtensorMap * map, CUtensorMapDataType type, std::uint32_t rank, void* address, const std::uint64_t* extent,   \
        const std::uint64_t* stride, const std::uint32_t* box, const std::uint32_t* element_stride,                    \
        CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2_promotion,             \
        CUtensorMapFloatOOBfill fill))                                                                                 \
  CALL(cuMemAlloc_v2, (CUdeviceptr * address, std::size_t bytes))                                                      \
  CALL(cuMemFree_v2, (CUdeviceptr address))                                                                            \
  CALL(cuMemcpyHtoD_v2, (CUdeviceptr to, const void* from, std::size_t bytes))                                         \
  CALL(cuMemcpyDtoH_v2, (void* to, CUdeviceptr from, std::size_t bytes))                                               \
  CALL(cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void* from, std::size_t bytes, CUstream stream))                   \
  CALL(cuMemcpyDtoHAsync_v2, (void* to, CUdeviceptr from, std::size_t bytes, CUstream stream))                         \
  CALL(cuMemsetD8_v2, (CUdeviceptr to, unsigned char value, std::size_t count))                                        \
  CALL(cuMemsetD32_v2, (CUdeviceptr to, unsigned value, std::size_t count))                                            \
  CALL(cuMemsetD8Async, (CUdeviceptr to, unsigned char value, std::size_t count, CUstream stream))                     \
  CALL(cuMemsetD32Async, (CUdeviceptr to, unsigned value, std::size_t count, CUstream stream))                         \
  CALL(cuMemHostRegister_v2, (void* address, std::size_t bytes, unsigned flags))                                       \
  CALL(cuMemHostUnregister, (void* address))

// Their types: call::cuInit* is a pointer to the function.
namespace call {
#define JAX_FA4_CUDA_CALL_TYPE(name, parameters) using name = CUresult parameters;
JAX_FA4_CUDA_CALLS(JAX_FA4_CUDA_CALL_TYPE)
#undef JAX_FA4_CUDA_CALL_TYPE
}  // namespace call

}  // namespace jax_fa4::cuda
