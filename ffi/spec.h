// Reads the buffers and attributes of a custom call into a Problem. The one place of the C++ side that refuses.
#pragma once

#include "problem.h"
#include "xla/ffi/api/ffi.h"

namespace jax_fa4 {

// Artefacts that were exported by a library with a newer contract are refused.
constexpr int64_t contract_version = 1;

xla::ffi::ErrorOr<Problem> read_forward(xla::ffi::RemainingArgs operands, xla::ffi::RemainingRets results,
                                        xla::ffi::Dictionary attributes);
xla::ffi::ErrorOr<Problem> read_backward(xla::ffi::RemainingArgs operands, xla::ffi::RemainingRets results,
                                         xla::ffi::Dictionary attributes);

}  // namespace jax_fa4
