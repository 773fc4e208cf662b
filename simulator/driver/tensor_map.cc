// Tensor maps (CUDA driver API, "Tensor Map Object Management"), in the format of machine/tensor_map.
#include <cstring>

#include "driver/state.h"
#include "machine/tensor_map.h"

namespace sim::driver {

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, std::uint32_t rank, void* address,
                                const std::uint64_t* extent, const std::uint64_t* stride, const std::uint32_t* box,
                                const std::uint32_t* element_stride, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2_promotion,
                                CUtensorMapFloatOOBfill fill) {
  return answer("cuTensorMapEncodeTiled", [&] {
    initialised();
    check_pointer(map, "tensorMap");
    if (reinterpret_cast<u64>(map) % 64)
      refuse(CUDA_ERROR_INVALID_VALUE, "tensorMap must be aligned to 64 bytes, got " +
                                           hexadecimal(reinterpret_cast<u64>(map)));
    if (type >= CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN8B && type <= CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B)
      refuse(CUDA_ERROR_NOT_SUPPORTED, "packed 4-bit and 6-bit types are not modelled");
    TensorMap encoded{};
    const TensorMapRequest request{static_cast<ElementType>(type),
                                   rank,
                                   reinterpret_cast<u64>(address),
                                   extent,
                                   stride,
                                   box,
                                   element_stride,
                                   static_cast<Interleave>(interleave),
                                   static_cast<Swizzle>(swizzle),
                                   l2_promotion,
                                   static_cast<OutOfBoundsFill>(fill)};
    if (const auto wrong = encode(request, encoded)) refuse(CUDA_ERROR_INVALID_VALUE, *wrong);
    unsigned char bytes[sizeof(CUtensorMap)] = {};
    std::memcpy(bytes, &encoded, sizeof encoded);
    // Through void: a caller of CUDA 12 aligns its maps to 64 bytes only.
    std::memcpy(static_cast<void*>(map), bytes, sizeof bytes);
  });
}

}  // namespace sim::driver
