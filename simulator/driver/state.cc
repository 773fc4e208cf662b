// The state's own rules: which handles are good, what a context takes with it, how a failure becomes a CUresult.
#include "driver/state.h"

#include <cstdio>
#include <cstdlib>
#include <new>

namespace sim::driver {

Buffer::~Buffer() { std::free(owned); }

State& the_state() {
  // Never destroyed: threads of the process may still call while it ends.
  static State& state = *new State;
  return state;
}

std::vector<CUcontext>& context_stack() {
  thread_local std::vector<CUcontext> stack;
  return stack;
}

Locked initialised() {
  Locked state;
  if (!state->initialised) refuse(CUDA_ERROR_NOT_INITIALIZED, "cuInit has not been called, or failed");
  return state;
}

CUresult failed(const char* call) {
  CUresult code = CUDA_ERROR_UNKNOWN;
  std::string words;
  try {
    throw;
  } catch (const Refusal& refusal) {
    code = refusal.code;
    words = refusal.words;
  } catch (const std::bad_alloc&) {
    code = CUDA_ERROR_OUT_OF_MEMORY;
    words = "no memory is left on the host";
  } catch (const std::exception& exception) {
    words = exception.what();
  }
  Locked()->last_error = std::string(call) + ": " + words;
  return code;
}

void State::reset_context() {
  streams.clear();
  modules.clear();
  functions.clear();
  memory.clear();
  allocated_bytes = 0;
}

void State::check_device(CUdevice asked) const {
  if (asked != 0) refuse(CUDA_ERROR_INVALID_DEVICE, "device " + std::to_string(asked) + ": there is one, 0");
}

void State::check_context() const {
  const std::vector<CUcontext>& stack = context_stack();
  if (stack.empty()) refuse(CUDA_ERROR_INVALID_CONTEXT, "no context is current to the calling thread");
  if (!alive(stack.back()))
    refuse(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the current context is a primary context that nobody retains any more");
}

void State::check_stream(CUstream stream) const {
  const u64 number = reinterpret_cast<u64>(stream);
  if (number == 0 || number == stream_legacy || number == stream_per_thread) return check_context();
  if (!streams.find(stream)) refuse(CUDA_ERROR_INVALID_HANDLE, "stream " + hexadecimal(number) + " does not exist");
}

std::shared_ptr<Kernel> State::kernel_of(CUfunction function) const {
  std::shared_ptr<Kernel> found = functions.find(function);
  // Documented for launches: a CUkernel may be passed by casting it to CUfunction.
  if (!found) found = kernels.find(reinterpret_cast<CUkernel>(function));
  if (!found)
    refuse(CUDA_ERROR_INVALID_HANDLE, "function " + hexadecimal(reinterpret_cast<u64>(function)) + " does not exist");
  return found;
}

std::string hexadecimal(u64 value) {
  char digits[19];
  std::snprintf(digits, sizeof digits, "0x%llx", static_cast<unsigned long long>(value));
  return digits;
}

std::string text(const Dim3& extent) {
  return std::to_string(extent.x) + "x" + std::to_string(extent.y) + "x" + std::to_string(extent.z);
}

}  // namespace sim::driver
