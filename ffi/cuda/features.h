// What a call may ask for beyond dense attention, under the names that jax_fa4/manifest.py has too.
#pragma once

#include <optional>
#include <string>

#include "../problem.h"

namespace jax_fa4::cuda {

// The bit of a feature; none for a name that is unknown.
std::optional<unsigned> feature_bit(const std::string& name);

// The bits of what the call asks for.
unsigned used_features(const Problem& problem);

// Their names, separated by commas.
std::string names_of_features(unsigned bits);

}  // namespace jax_fa4::cuda
