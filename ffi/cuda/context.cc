#include "context.h"

#include <map>
#include <mutex>

#include "error.h"

namespace jax_fa4::cuda {

CurrentContext::CurrentContext(const Driver& driver, CUcontext context) : driver_(driver), context_(context) {
  check(driver, driver.cuCtxPushCurrent_v2(context), "making the GPU's context current");
}

CurrentContext::~CurrentContext() {
  CUcontext popped = nullptr;
  driver_.cuCtxPopCurrent_v2(&popped);
}

CurrentContext CurrentContext::of_stream(const Driver& driver, CUstream stream) {
  CUcontext context = nullptr;
  check(driver, driver.cuStreamGetCtx(stream, &context), "asking for the context of XLA's stream");
  return CurrentContext(driver, context);
}

CurrentContext CurrentContext::of_first_device(const Driver& driver) {
  static std::mutex mutex;
  static std::map<const Driver*, CUcontext> kept;
  CUdevice device = 0;
  CUcontext context = nullptr;
  check(driver, driver.cuDeviceGet(&device, 0), "asking for the first GPU");
  const std::lock_guard lock(mutex);
  check(driver, driver.cuDevicePrimaryCtxRetain(&context, device), "making a context on the first GPU");
  // Kept for good, once: kernels are loaded into it. A driver that was reset gives a new one.
  if (kept[&driver] == context) driver.cuDevicePrimaryCtxRelease_v2(device);
  kept[&driver] = context;
  return CurrentContext(driver, context);
}

}  // namespace jax_fa4::cuda
