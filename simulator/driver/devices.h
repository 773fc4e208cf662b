// The devices that the stand-in can be: attributes as rows, by their documented numbers (CUdevice_attribute).
#pragma once

#include <string_view>

#include "../../ffi/cuda/driver_abi.h"
#include "machine/grid.h"

namespace sim::driver {

using namespace jax_fa4::cuda;

struct AttributeRow {
  CUdevice_attribute attribute;
  int b200, h200;
};

// From NVIDIA's programming and tuning guides for compute capability 9.0 and 10.0; clock, bus and L2 as published.
inline constexpr AttributeRow attribute_rows[] = {
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64, 64},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 2147483647, 2147483647},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 49152, 49152},
    {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536, 65536},
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32, 32},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536, 65536},
    {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1965000, 1980000},
    {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 148, 132},
    {CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT, 0, 0},
    {CU_DEVICE_ATTRIBUTE_INTEGRATED, 0, 0},
    {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, 0, 0},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1, 1},
    {CU_DEVICE_ATTRIBUTE_ECC_ENABLED, 1, 1},
    {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 7680, 6144},
    {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 132644864, 52428800},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048, 2048},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 10, 9},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0, 0},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 233472, 233472},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536, 65536},
    {CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS, 0, 0},  // memory must be registered: what is not is out of bounds
    {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1, 1},
    {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 0, 0},  // hardware has it, the stand-in does not
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 232448, 232448},
    {CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1, 1},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32, 32},
    {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, 1024, 1024},
    {CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, 1, 1},
    {CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, 1, 1},
    {CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED, 1, 1},
};

struct Device {
  std::string_view key;
  std::string_view name;
  u64 memory_bytes;
  int AttributeRow::*column;

  const int* find(CUdevice_attribute attribute) const {
    for (const AttributeRow& row : attribute_rows)
      if (row.attribute == attribute) return &(row.*column);
    return nullptr;
  }
  u32 get(CUdevice_attribute attribute) const { return static_cast<u32>(*find(attribute)); }
};

inline constexpr Device devices[] = {
    {"b200", "NVIDIA B200 (simulated)", u64{182'630} << 20, &AttributeRow::b200},
    {"h200", "NVIDIA H200 (simulated)", u64{143'156} << 20, &AttributeRow::h200},
};

// Blocks of a cluster, no attribute of the API: more than 8 need CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED.
inline constexpr u32 portable_cluster = 8, largest_cluster = 16;

// The device as far as a launch depends on it.
inline DeviceLimits limits(const Device& device, u32 max_cluster) {
  DeviceLimits limits;
  limits.multiprocessors = device.get(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  limits.shared_bytes = device.get(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  limits.reserved_shared = device.get(CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK);
  limits.registers = device.get(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR);
  limits.max_cluster = max_cluster;
  return limits;
}

}  // namespace sim::driver
