// The driver WATCHED (a path, and what this library is linked with), seen through: each launch is noted, with its kernel and
// whether the stream was being captured. Calls that are not here are found in the driver, as a dependency of this library.
#include <dlfcn.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "../../ffi/cuda/driver_abi.h"

using namespace jax_fa4::cuda;

namespace {

struct Launch {
  std::string kernel;
  bool captured;
};

std::mutex mutex;
std::map<CUfunction, std::string> names;
std::vector<Launch> launches;

template <class Call>
Call* behind(const char* name) {
  static void* const driver = dlopen(WATCHED, RTLD_NOW);
  return reinterpret_cast<Call*>(dlsym(driver, name));
}

// 1: CU_STREAM_CAPTURE_STATUS_ACTIVE. A driver that captures nothing has no such call.
bool is_captured(CUstream stream) {
  static auto* const ask = behind<CUresult(CUstream, int*)>("cuStreamIsCapturing");
  int status = 0;
  return ask && ask(stream, &status) == CUDA_SUCCESS && status == 1;
}

}  // namespace

extern "C" {

void watch_reset() {
  const std::lock_guard lock(mutex);
  launches.clear();
}
int watch_count() {
  const std::lock_guard lock(mutex);
  return int(launches.size());
}
int watch_launch(int i, char* kernel, int bytes) {
  const std::lock_guard lock(mutex);
  std::strncpy(kernel, launches[size_t(i)].kernel.c_str(), size_t(bytes) - 1);
  return launches[size_t(i)].captured;
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  static auto* const call = behind<call::cuModuleGetFunction>("cuModuleGetFunction");
  const CUresult result = call(function, module, name);
  const std::lock_guard lock(mutex);
  if (result == CUDA_SUCCESS) names[*function] = name;
  return result;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void** extra) {
  static auto* const call = behind<call::cuLaunchKernelEx>("cuLaunchKernelEx");
  const bool captured = is_captured(config->hStream);
  const CUresult result = call(config, function, parameters, extra);
  const std::lock_guard lock(mutex);
  if (result == CUDA_SUCCESS) launches.push_back({names[function], captured});
  return result;
}

}  // extern "C"
