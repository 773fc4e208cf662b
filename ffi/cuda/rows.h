// The launcher's form of the manifests: a line has a word and its values. "variant NAME" begins a row, which has
//   arch entry cubin ptx minimum_driver element output head_dim value_head_dim features threads shared_bytes cluster
//   dependent rows minimum_rows persistent
// and, in the order in which the kernel takes them, "parameter KIND OF [SWIZZLE AXIS BOX AXIS BOX ...]".
#pragma once

#include <string>

#include "variants.h"

namespace jax_fa4::cuda {

// Throws std::invalid_argument.
Table read_rows(const std::string& text);

// The manifest's name of an element type.
std::string name_of(Element element);

}  // namespace jax_fa4::cuda
