// Kernels as the driver has them: an image is loaded and its entry resolved once per context, in the initialize stage,
// so that no capture of a CUDA graph ever loads.
#pragma once

#include <memory>

#include "driver.h"
#include "variants.h"

namespace jax_fa4::cuda {

enum class Image { cubin, ptx };  // hardware runs the first, the simulator reads the second

// What is known of the current context's device.
std::shared_ptr<const Device> device_of(const Driver& driver, CUcontext context);

// The variant's function in the current context. Throws Failure.
CUfunction function_of(const Driver& driver, CUcontext context, const std::shared_ptr<const Variant>& variant,
                       Image image);

}  // namespace jax_fa4::cuda
