#include "tensor_map.h"

#include "error.h"

namespace jax_fa4::cuda {
namespace {

constexpr std::uint64_t largest_stride = std::uint64_t{1} << 40, largest_extent = std::uint64_t{1} << 32;

CUtensorMapDataType type_of(Element element) {
  switch (element) {
    case Element::bf16: return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case Element::f16: return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case Element::f32: return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    case Element::i32: return CU_TENSOR_MAP_DATA_TYPE_INT32;
    case Element::f64: return CU_TENSOR_MAP_DATA_TYPE_FLOAT64;
    case Element::boolean: break;
  }
  return CU_TENSOR_MAP_DATA_TYPE_UINT8;
}

[[noreturn]] void refuse(const Parameter& parameter, const std::string& words) {
  fail(ErrorCode::kInvalidArgument, "the tensor map of " + parameter.of + ": " + words);
}

}  // namespace

CUtensorMap encode(const Driver& driver, const Parameter& parameter, const Box& box) {
  const size_t rank = parameter.axes.size();
  const std::uint64_t width = bytes_of(box.element);
  if (reinterpret_cast<std::uintptr_t>(box.address) % 16) refuse(parameter, "its memory is not aligned to 16 bytes");
  std::uint64_t extents[max_rank] = {}, strides[max_rank] = {};
  constexpr std::uint32_t steps[max_rank] = {1, 1, 1, 1, 1};
  for (size_t i = 0; i < rank; ++i) {
    extents[i] = std::uint64_t(box.views[i].extent);
    const std::uint64_t stride = std::uint64_t(box.views[i].stride) * width;
    if (extents[i] == 0 || extents[i] > largest_extent) refuse(parameter, "an extent is 0 or above 2^32");
    if (i == 0) continue;  // the innermost axis is dense
    if (stride % 16 || stride >= largest_stride)
      refuse(parameter, "a stride of " + std::to_string(stride) + " bytes is no multiple of 16, or not below 2^40");
    strides[i - 1] = stride;
  }
  CUtensorMap map;
  check(driver,
        driver.cuTensorMapEncodeTiled(&map, type_of(box.element), std::uint32_t(rank), box.address, extents, strides,
                                      box.extents, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, parameter.swizzle,
                                      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        "making the tensor map of ", parameter.of);
  return map;
}

}  // namespace jax_fa4::cuda
