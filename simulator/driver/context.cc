// The primary context, each thread's stack of current contexts, and streams (CUDA driver API).
#include "driver/state.h"

namespace sim::driver {
namespace {

void check_alive(const State& state, CUcontext context) {
  if (context != state.primary || !context)
    refuse(CUDA_ERROR_INVALID_CONTEXT, "context " + hexadecimal(reinterpret_cast<u64>(context)) + " does not exist");
}

}  // namespace

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  return answer("cuDevicePrimaryCtxRetain", [&] {
    Locked state = initialised();
    check_pointer(context, "pctx");
    state->check_device(device);
    if (!state->primary) state->primary = reinterpret_cast<CUcontext>(state->next_handle += 16);
    ++state->retained;
    *context = state->primary;
  });
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  return answer("cuDevicePrimaryCtxRelease", [&] {
    Locked state = initialised();
    state->check_device(device);
    if (state->retained == 0) refuse(CUDA_ERROR_INVALID_CONTEXT, "the primary context is not retained");
    if (--state->retained == 0) state->reset_context();
  });
}

CUresult cuCtxSetCurrent(CUcontext context) {
  return answer("cuCtxSetCurrent", [&] {
    Locked state = initialised();
    std::vector<CUcontext>& stack = context_stack();
    if (context) check_alive(*state, context);
    if (!stack.empty()) stack.pop_back();
    if (context) stack.push_back(context);
  });
}

CUresult cuCtxGetCurrent(CUcontext* context) {
  return answer("cuCtxGetCurrent", [&] {
    Locked state = initialised();
    check_pointer(context, "pctx");
    *context = context_stack().empty() ? nullptr : context_stack().back();
  });
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
  return answer("cuCtxPushCurrent", [&] {
    Locked state = initialised();
    check_alive(*state, context);
    context_stack().push_back(context);
  });
}

CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  return answer("cuCtxPopCurrent", [&] {
    Locked state = initialised();
    std::vector<CUcontext>& stack = context_stack();
    if (stack.empty()) refuse(CUDA_ERROR_INVALID_CONTEXT, "no context is current to the calling thread");
    if (context) *context = stack.back();
    stack.pop_back();
  });
}

CUresult cuCtxGetDevice(CUdevice* device) {
  return answer("cuCtxGetDevice", [&] {
    Locked state = initialised();
    check_pointer(device, "device");
    state->check_context();
    *device = 0;
  });
}

// Launches and copies end before their call returns: there is never anything to wait for.
CUresult cuCtxSynchronize() {
  return answer("cuCtxSynchronize", [&] { initialised()->check_context(); });
}

CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  return answer("cuStreamCreate", [&] {
    Locked state = initialised();
    check_pointer(stream, "phStream");
    if (flags & ~stream_non_blocking)
      refuse(CUDA_ERROR_INVALID_VALUE, "flags must be 0 or 1, got " + std::to_string(flags));
    state->check_context();
    *stream = state->streams.add(std::make_shared<Stream>(), state->next_handle);
  });
}

CUresult cuStreamDestroy_v2(CUstream stream) {
  return answer("cuStreamDestroy", [&] {
    Locked state = initialised();
    if (!state->streams.erase(stream))
      refuse(CUDA_ERROR_INVALID_HANDLE, "stream " + hexadecimal(reinterpret_cast<u64>(stream)) + " does not exist");
  });
}

CUresult cuStreamSynchronize(CUstream stream) {
  return answer("cuStreamSynchronize", [&] { initialised()->check_stream(stream); });
}

CUresult cuStreamGetCtx(CUstream stream, CUcontext* context) {
  return answer("cuStreamGetCtx", [&] {
    Locked state = initialised();
    check_pointer(context, "pctx");
    state->check_stream(stream);
    *context = state->primary;
  });
}

}  // namespace sim::driver
