// The FFI handlers of platform "CUDA", and of the same kernels on host buffers (platform "cpu", for the simulator).
#pragma once

#include "xla/ffi/api/ffi.h"

XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_fa4_cuda_forward_initialize);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_fa4_cuda_forward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_fa4_sim_forward);
