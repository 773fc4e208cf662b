// An array of a call -> the 128 bytes by which a kernel's tensor copies know it (CUDA driver API, tensor maps).
#pragma once

#include "driver.h"
#include "variants.h"

namespace jax_fa4::cuda {

// Axes that a tensor map of the array may have: extent and stride in elements.
struct View {
  std::int64_t extent = 0, stride = 0;
};

// `batch` entries of the operand from `address` on. Throws Failure.
CUtensorMap encode(const Driver& driver, const Parameter& parameter, Element element, void* address,
                   const std::vector<View>& views);

}  // namespace jax_fa4::cuda
