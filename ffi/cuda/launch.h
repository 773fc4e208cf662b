// A call -> launches of its kernel: extents of the grid, launch attributes, parameters in the order of the row.
#pragma once

#include "driver.h"
#include "variants.h"

namespace jax_fa4::cuda {

// Whether the launcher can make this parameter: the array or the number of that name exists.
bool known_parameter(const Parameter& parameter);

// What a launch needs beside the call.
struct Target {
  const Driver& driver;
  const Device& device;
  const Variant& variant;
  CUfunction function;
  CUstream stream;
};

// The forward pass of a call whose results are not empty. Allocates no device memory and waits for nothing.
void launch_forward(const Target& target, const Problem& problem);

// The results of a call without keys: output 0, log-sum-exp -inf.
void fill_without_keys(const Driver& driver, const Problem& problem, CUstream stream);

}  // namespace jax_fa4::cuda
