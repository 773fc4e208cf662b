// How a call is cut into tasks.
#pragma once

#include "kernels.h"

namespace jax_fa4::cpu {

Plan forward_plan(const Problem& problem);
Plan backward_plan(const Problem& problem);

}  // namespace jax_fa4::cpu
