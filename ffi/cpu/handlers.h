// The FFI handlers of platform "cpu".
#pragma once

#include "xla/ffi/api/ffi.h"

XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_fa4_cpu_forward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_fa4_cpu_backward);
