// An array of a call -> the 128 bytes by which a kernel's tensor copies know it (CUDA driver API, tensor maps).
#pragma once

#include "driver.h"
#include "variants.h"

namespace jax_fa4::cuda {

// An axis of an array: extent and stride in elements.
struct View {
  std::int64_t extent = 0, stride = 0;
};

// What a tensor map describes: an array in memory, and the part of it that one copy moves. Innermost axis first.
struct Box {
  Element element;
  void* address;
  View views[max_rank];
  std::uint32_t extents[max_rank];  // of the part
};

// Throws Failure.
CUtensorMap encode(const Driver& driver, const Parameter& parameter, const Box& box);

}  // namespace jax_fa4::cuda
