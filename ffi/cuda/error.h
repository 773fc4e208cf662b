// What can go wrong between here and the GPU: a CUresult, what was being done, what would help -> ffi::Error in words.
#pragma once

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "driver.h"
#include "xla/ffi/api/ffi.h"

namespace jax_fa4::cuda {

using xla::ffi::ErrorCode;

// Ends a call. Never leaves the library: guard() catches it.
struct Failure {
  ErrorCode code;
  std::string words;
};

[[noreturn]] inline void fail(ErrorCode code, std::string words) { throw Failure{code, std::move(words)}; }

[[noreturn]] void fail_call(const Driver& driver, CUresult result, const std::string& doing);

// What was being done is put together only where it failed.
template <class... Parts>
void check(const Driver& driver, CUresult result, const Parts&... doing) {
  if (result != CUDA_SUCCESS) fail_call(driver, result, (std::string() + ... + doing));
}

// Runs a handler's body; nothing is thrown across the C boundary.
template <class Body>
xla::ffi::Error guard(Body&& body) {
  try {
    body();
    return xla::ffi::Error::Success();
  } catch (const Failure& failure) {
    return xla::ffi::Error(failure.code, "jax_fa4: " + failure.words);
  } catch (const xla::ffi::Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return xla::ffi::Error(ErrorCode::kResourceExhausted, "jax_fa4: the host is out of memory");
  } catch (const std::exception& error) {
    return xla::ffi::Error(ErrorCode::kInternal, std::string("jax_fa4: ") + error.what());
  }
}

}  // namespace jax_fa4::cuda
