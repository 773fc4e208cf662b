#include "driver.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

#include "error.h"

namespace jax_fa4::cuda {
namespace {

constexpr const char* variable = "JAX_FA4_CUDA_DRIVER";
constexpr const char* usual = "libcuda.so.1";

std::string words_of_loader() {
  const char* words = dlerror();
  return words ? words : "no reason given";
}

[[noreturn]] void refuse_library(const std::string& path) {
  const std::string words = words_of_loader();
  if (driver_is_named())
    fail(ErrorCode::kFailedPrecondition, std::string(variable) + "=" + path + ": cannot be loaded: " + words);
  fail(ErrorCode::kFailedPrecondition,
       "NVIDIA's driver was not found: " + words + ". The CUDA kernels need a machine with an NVIDIA GPU and its " +
           "driver; elsewhere pass implementation=\"blockwise\"");
}

std::unique_ptr<Driver> load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) refuse_library(path);
  auto driver = std::make_unique<Driver>();
  driver->path = path;
  std::string missing;
#define JAX_FA4_CUDA_LOOK_UP(name)                                          \
  driver->name = reinterpret_cast<call::name*>(dlsym(library, #name));      \
  if (!driver->name) missing += (missing.empty() ? "" : ", ") + std::string(#name);
  JAX_FA4_CUDA_NEEDED(JAX_FA4_CUDA_LOOK_UP)
#undef JAX_FA4_CUDA_LOOK_UP
  if (driver->cuDriverGetVersion) driver->cuDriverGetVersion(&driver->version);
  if (missing.empty()) return driver;
  std::string words = path + " has no " + missing;
  if (driver->version > 0) words += "; it is CUDA " + version_text(driver->version) + ": update NVIDIA's driver";
  else words += ": it is no CUDA driver";
  dlclose(library);
  fail(ErrorCode::kFailedPrecondition, words);
}

const Driver& loaded(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<Driver>, std::less<>> drivers;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Driver>& driver = drivers[path];
  if (!driver) driver = load(path);
  return *driver;
}

}  // namespace

bool driver_is_named() {
  const char* named = std::getenv(variable);
  return named && *named;
}

const Driver& the_driver() {
  static std::atomic<const Driver*> latest = nullptr;
  // The environment is read at each call: tests change it.
  const char* named = std::getenv(variable);
  const char* path = named && *named ? named : usual;
  const Driver* driver = latest.load(std::memory_order_acquire);
  if (!driver || driver->path != path) {
    driver = &loaded(path);
    latest.store(driver, std::memory_order_release);
  }
  // Not only once: a stand-in can be reset.
  if (const CUresult result = driver->cuInit(0); result != CUDA_SUCCESS)
    fail_call(*driver, result, "initialising the driver " + driver->path);
  return *driver;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace jax_fa4::cuda
