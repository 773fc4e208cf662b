// A call -> launches of its kernel: extents of the grid, launch attributes, parameters in the order of the row.
#pragma once

#include "driver.h"
#include "variants.h"

namespace jax_fa4::cuda {

// What a launch needs beside the call.
struct Target {
  const Driver& driver;
  const Device& device;
  const Variant& variant;
  CUfunction function;
  CUstream stream;
};

// Kernels count positions in 32 bits. Throws Failure for a call that is too long.
void check_lengths(const Problem& problem);

// The forward pass of a call whose results are not empty; it may have no keys. Allocates no memory, of the device or of
// the host, and waits for nothing.
void launch_forward(const Target& target, const Problem& problem);

}  // namespace jax_fa4::cuda
