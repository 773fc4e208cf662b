// How a call is cut into tasks.
#pragma once

#include "kernels.h"

namespace jax_fa4::cpu {

Plan forward_plan(const Problem& problem, TileShape tile);
Plan backward_plan(const Problem& problem, TileShape tile, TileShape bias_tile);

}  // namespace jax_fa4::cpu
