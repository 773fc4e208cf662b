// Initialisation, error names, function look-up and device queries (CUDA driver API, "Error Handling" to
// "Device Management").
#include <cstdlib>
#include <cstring>

#include "driver/errors.h"
#include "driver/options.h"
#include "driver/state.h"

namespace sim::driver {
namespace {

constexpr int driver_version = 13000;
// Every call of ours exists in the form declared here since this version; older forms are not offered.
constexpr int oldest_version = 12000;

struct CallRow {
  const char* name;
  void* function;
};

#define JAX_FA4_CALL_ROW(name, parameters) {#name, reinterpret_cast<void*>(&name)},
const CallRow call_rows[] = {JAX_FA4_CUDA_CALLS(JAX_FA4_CALL_ROW)};
#undef JAX_FA4_CALL_ROW

// cuGetProcAddress takes the base name: cuMemAlloc for cuMemAlloc_v2.
void* find_call(std::string_view symbol) {
  for (const CallRow& row : call_rows) {
    std::string_view base = row.name;
    if (base.ends_with("_v2")) base.remove_suffix(3);
    if (base == symbol) return row.function;
  }
  return nullptr;
}

const ErrorRow* find_error(CUresult error) {
  for (const ErrorRow& row : error_rows)
    if (row.code == error) return &row;
  return nullptr;
}

CUresult describe(CUresult error, const char** text, const char* ErrorRow::*column) {
  const ErrorRow* row = find_error(error);
  if (text) *text = row ? row->*column : nullptr;
  return text && row ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// What the session has not set, the environment may.
void read_environment(State& state) {
  try {
    if (const char* wanted = std::getenv("JAX_FA4_SIMULATOR_DEVICE"); wanted && !state.device_chosen) {
      const Device* found = nullptr;
      for (const Device& device : devices)
        if (device.key == wanted) found = &device;
      if (!found) throw Error("JAX_FA4_SIMULATOR_DEVICE=" + std::string(wanted) + ": there are b200, h200");
      state.device = found;
    }
    if (const char* wanted = std::getenv("JAX_FA4_SIMULATOR_OPTIONS"); wanted && !state.options)
      state.options = parse_options(wanted);
  } catch (const Error& error) {
    refuse(CUDA_ERROR_INVALID_VALUE, error.what());
  }
}

}  // namespace

CUresult cuInit(unsigned flags) {
  return answer("cuInit", [&] {
    if (flags != 0) refuse(CUDA_ERROR_INVALID_VALUE, "flags must be 0, got " + std::to_string(flags));
    Locked state;
    if (state->initialised) return;
    read_environment(*state);
    state->initialised = true;
  });
}

CUresult cuDriverGetVersion(int* version) {
  return answer("cuDriverGetVersion", [&] {
    check_pointer(version, "version");
    *version = driver_version;
  });
}

CUresult cuGetErrorName(CUresult error, const char** text) { return describe(error, text, &ErrorRow::name); }

CUresult cuGetErrorString(CUresult error, const char** text) { return describe(error, text, &ErrorRow::words); }

CUresult cuGetProcAddress_v2(const char* symbol, void** function, int version, std::uint64_t flags,
                             CUdriverProcAddressQueryResult* status) {
  return answer("cuGetProcAddress", [&] {
    check_pointer(symbol, "symbol");
    check_pointer(function, "pfn");
    if (flags > 2) refuse(CUDA_ERROR_INVALID_VALUE, "flags must be 0, 1 or 2, got " + std::to_string(flags));
    if (version > driver_version)
      refuse(CUDA_ERROR_INVALID_VALUE, "version " + std::to_string(version) + " is newer than the driver's, " +
                                           std::to_string(driver_version));
    void* found = find_call(symbol);
    const bool old = found && version < oldest_version;
    *function = old ? nullptr : found;
    if (status)
      *status = old     ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                : found ? CU_GET_PROC_ADDRESS_SUCCESS
                        : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  });
}

CUresult cuDeviceGetCount(int* count) {
  return answer("cuDeviceGetCount", [&] {
    Locked state = initialised();
    check_pointer(count, "count");
    *count = 1;
  });
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  return answer("cuDeviceGet", [&] {
    Locked state = initialised();
    check_pointer(device, "device");
    state->check_device(ordinal);
    *device = ordinal;
  });
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  return answer("cuDeviceGetAttribute", [&] {
    Locked state = initialised();
    check_pointer(value, "pi");
    state->check_device(device);
    const int* found = state->device->find(attribute);
    if (!found)
      refuse(CUDA_ERROR_INVALID_VALUE,
             "the stand-in knows no device attribute " + std::to_string(static_cast<unsigned>(attribute)));
    *value = *found;
  });
}

CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  return answer("cuDeviceGetName", [&] {
    Locked state = initialised();
    check_pointer(name, "name");
    if (length <= 0) refuse(CUDA_ERROR_INVALID_VALUE, "len must be positive, got " + std::to_string(length));
    state->check_device(device);
    const std::size_t copied = state->device->name.copy(name, static_cast<std::size_t>(length) - 1);
    name[copied] = '\0';
  });
}

CUresult cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice device) {
  return answer("cuDeviceTotalMem", [&] {
    Locked state = initialised();
    check_pointer(bytes, "bytes");
    state->check_device(device);
    *bytes = state->device->memory_bytes;
  });
}

}  // namespace sim::driver
