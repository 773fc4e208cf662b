#include "module_cache.h"

#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <tuple>

#include "error.h"

namespace jax_fa4::cuda {
namespace {

// Entries stay: contexts of a driver live as long as the process, and rows are replaced by tests alone. A key holds its
// row, whose address is therefore nobody else's.
std::mutex mutex;
std::map<std::tuple<const Driver*, CUcontext>, std::shared_ptr<const Device>> devices;
std::map<std::tuple<const Driver*, CUcontext, std::shared_ptr<const Variant>, Image>, CUfunction> functions;

int attribute(const Driver& driver, CUdevice device, CUdevice_attribute which) {
  int value = 0;
  check(driver, driver.cuDeviceGetAttribute(&value, which, device), "asking the GPU for an attribute");
  return value;
}

std::string file_of(const Variant& variant, Image image) {
  const std::string& wanted = image == Image::cubin ? variant.cubin : variant.ptx;
  return wanted.empty() ? image == Image::cubin ? variant.ptx : variant.cubin : wanted;
}

std::string read_image(const Variant& variant, Image image) {
  const std::string path = file_of(variant, image);
  std::ifstream file(path, std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(file), {});
  if (!file || bytes.empty())
    fail(ErrorCode::kFailedPrecondition, "the kernel's file " + path + " cannot be read: install jax_fa4 again");
  return bytes;
}

CUfunction load(const Driver& driver, const Variant& variant, Image image) {
  if (driver.version < variant.minimum_driver)
    fail(ErrorCode::kFailedPrecondition,
         variant.name + " needs a driver of CUDA " + version_text(variant.minimum_driver) +
             " or newer; this one is CUDA " + version_text(driver.version) +
             ": update NVIDIA's driver, or pass implementation=\"blockwise\"");
  const std::string bytes = read_image(variant, image);
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  check(driver, driver.cuModuleLoadData(&module, bytes.c_str()), "loading ", variant.name, " for ", variant.arch);
  check(driver, driver.cuModuleGetFunction(&function, module, variant.entry.c_str()), "finding ", variant.entry, " in ",
        variant.name);
  // This also makes a driver that loads lazily load now.
  check(driver,
        driver.cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, int(variant.shared_bytes)),
        "giving ", variant.name, " ", std::to_string(variant.shared_bytes), " bytes of shared memory");
  return function;
}

}  // namespace

std::shared_ptr<const Device> device_of(const Driver& driver, CUcontext context) {
  const std::lock_guard lock(mutex);
  std::shared_ptr<const Device>& known = devices[{&driver, context}];
  if (known) return known;
  auto device = std::make_shared<Device>();
  check(driver, driver.cuCtxGetDevice(&device->id), "asking for the context's GPU");
  char name[256] = {};
  check(driver, driver.cuDeviceGetName(name, sizeof name, device->id), "asking for the GPU's name");
  device->name = name;
  device->major = attribute(driver, device->id, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  device->minor = attribute(driver, device->id, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  device->multiprocessors = attribute(driver, device->id, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  device->l2_bytes = attribute(driver, device->id, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
  return known = device;
}

CUfunction function_of(const Driver& driver, CUcontext context, const std::shared_ptr<const Variant>& variant,
                       Image image) {
  const std::lock_guard lock(mutex);
  CUfunction& function = functions[{&driver, context, variant, image}];
  if (!function) function = load(driver, *variant, image);
  return function;
}

}  // namespace jax_fa4::cuda
