// A driver that computes nothing: it keeps track of contexts, streams, modules and launches as the driver API says, and
// tests read what was launched, set what the machine has, and make calls fail. With STUB_IS_OLD: as CUDA 11 was.
#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../../ffi/cuda/driver_abi.h"

using namespace jax_fa4::cuda;

namespace {

constexpr int most_devices = 8, most_streams = 1024, most_functions = 4096;

struct Owned {
  int device = 0;
};

// The launcher asks once: B200s, then a GPU of the same family, one of the generation before, one of another.
struct Device {
  int major, minor, multiprocessors;
};
constexpr Device devices[most_devices] = {{10, 0, 148}, {10, 0, 148}, {10, 0, 148}, {10, 0, 147},
                                          {10, 3, 160}, {9, 0, 132},  {12, 0, 188}, {10, 0, 1}};

// As a test reads it; parameters are the bytes of all, one after the other.
struct Launch {
  int device, stream, thread;
  unsigned grid[3], block[3], cluster[3];
  unsigned shared_bytes, dependent;
  char entry[128];
  unsigned char parameters[4096];
};

// What stands in a tensor map: the request itself.
struct Encoded {
  std::uint32_t type, rank;
  std::uint64_t address, extents[5], strides[4];
  std::uint32_t box[5], swizzle;
};
static_assert(sizeof(Encoded) <= sizeof(CUtensorMap));

std::mutex mutex;
std::map<std::string, CUresult> failures;
std::map<std::string, int> counts;
std::string layout;  // kinds of a kernel's parameters: t(ensor map), p(ointer), i(nteger), f(loat)
std::vector<Launch> launches;
std::vector<std::thread::id> threads;
std::vector<std::string> entries;
Owned contexts[most_devices], streams[most_streams], functions[most_functions];
int device_count = 1, stream_count = 0, version = 13000;
bool capturing = false, recording = true;
thread_local std::vector<int> current;  // contexts

template <class Handle>
Handle handle(Owned& owned) {
  return reinterpret_cast<Handle>(&owned);
}

template <class Handle>
int place(const Owned* first, int count, Handle given) {
  const auto* owned = reinterpret_cast<const Owned*>(given);
  return owned >= first && owned < first + count ? int(owned - first) : -1;
}

// 0, unless a test wants the call to fail.
CUresult enter(const char* name) {
  if (!recording) return CUDA_SUCCESS;
  ++counts[name];
  const auto at = failures.find(name);
  return at == failures.end() ? CUDA_SUCCESS : at->second;
}

#define ENTER(name)                                                  \
  const std::lock_guard lock(mutex);                                 \
  if (const CUresult asked = enter(#name); asked != CUDA_SUCCESS) return asked

void record(const CUlaunchConfig& config, int function, int stream, void** parameters) {
  Launch launch = {};
  launch.device = contexts[current.back()].device;
  launch.stream = stream;
  const auto self = std::this_thread::get_id();
  if (std::find(threads.begin(), threads.end(), self) == threads.end()) threads.push_back(self);
  launch.thread = int(std::find(threads.begin(), threads.end(), self) - threads.begin());
  const unsigned grid[] = {config.gridDimX, config.gridDimY, config.gridDimZ};
  const unsigned block[] = {config.blockDimX, config.blockDimY, config.blockDimZ};
  std::copy(grid, grid + 3, launch.grid);
  std::copy(block, block + 3, launch.block);
  launch.shared_bytes = config.sharedMemBytes;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const CUlaunchAttributeValue& value = config.attrs[i].value;
    if (config.attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
      const unsigned cluster[] = {value.clusterDim.x, value.clusterDim.y, value.clusterDim.z};
      std::copy(cluster, cluster + 3, launch.cluster);
    }
    if (config.attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
      launch.dependent = unsigned(value.programmaticStreamSerializationAllowed);
  }
  std::strncpy(launch.entry, entries[size_t(function)].c_str(), sizeof launch.entry - 1);
  unsigned char* to = launch.parameters;
  for (size_t i = 0; i < layout.size(); ++i) {
    const size_t bytes = layout[i] == 't' ? sizeof(CUtensorMap) : layout[i] == 'p' ? 8 : 4;
    if (to + bytes > launch.parameters + sizeof launch.parameters) break;
    std::memcpy(to, parameters[i], bytes);
    to += bytes;
  }
  launches.push_back(launch);
}

}  // namespace

extern "C" {

// --- What tests say to it ---

void stub_reset(int count, const char* parameters) {
  const std::lock_guard lock(mutex);
  failures.clear();
  counts.clear();
  launches.clear();
  threads.clear();
  layout = parameters;
  device_count = count;
  version = 13000;
  capturing = false;
  recording = true;
}
void stub_fail(const char* name, unsigned result) { failures[name] = static_cast<CUresult>(result); }
void stub_version(int number) { version = number; }
void stub_capture(int on) { capturing = on != 0; }
void stub_record(int on) { recording = on != 0; }
int stub_count(const char* name) { return counts[name]; }
int stub_launches() { return int(launches.size()); }
const Launch* stub_launch(int i) { return &launches[size_t(i)]; }

// --- The driver API ---

CUresult cuInit(unsigned) {
  ENTER(cuInit);
  return CUDA_SUCCESS;
}
CUresult cuDriverGetVersion(int* number) {
#ifdef STUB_IS_OLD
  *number = 11040;
#else
  *number = version;
#endif
  return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char** text) {
  *text = error == CUDA_ERROR_UNKNOWN ? nullptr : "CUDA_ERROR_NAMED";
  return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == CUDA_ERROR_UNKNOWN ? nullptr : "what the driver says";
  return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  ENTER(cuDeviceGet);
  *device = ordinal;
  return ordinal < device_count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  ENTER(cuDeviceGetAttribute);
  const Device& its = devices[device];
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR   ? its.major
           : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? its.minor
           : attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT     ? its.multiprocessors
           : attribute == CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE            ? 128 << 20
                                                                       : 0;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  ENTER(cuDeviceGetName);
  std::strncpy(name, ("Stub " + std::to_string(device)).c_str(), size_t(length));
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  ENTER(cuDevicePrimaryCtxRetain);
  contexts[device].device = device;
  *context = handle<CUcontext>(contexts[device]);
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxPushCurrent_v2(CUcontext context) {
  ENTER(cuCtxPushCurrent_v2);
  const int at = place(contexts, most_devices, context);
  if (at < 0) return CUDA_ERROR_INVALID_CONTEXT;
  current.push_back(at);
  return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  if (current.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *context = handle<CUcontext>(contexts[current.back()]);
  current.pop_back();
  return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = current.empty() ? nullptr : handle<CUcontext>(contexts[current.back()]);
  return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* device) {
  ENTER(cuCtxGetDevice);
  if (current.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *device = contexts[current.back()].device;
  return CUDA_SUCCESS;
}
CUresult cuCtxSynchronize() {
  ENTER(cuCtxSynchronize);
  return CUDA_SUCCESS;
}
CUresult cuStreamCreate(CUstream* stream, unsigned) {
  const std::lock_guard lock(mutex);
  Owned& made = streams[stream_count++ % most_streams];
  made.device = current.back();
  *stream = handle<CUstream>(made);
  return CUDA_SUCCESS;
}
CUresult cuStreamGetCtx(CUstream stream, CUcontext* context) {
  ENTER(cuStreamGetCtx);
  const int at = place(streams, most_streams, stream);
  if (at < 0) return CUDA_ERROR_INVALID_HANDLE;
  *context = handle<CUcontext>(contexts[streams[at].device]);
  return CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule* module, const void*) {
  ENTER(cuModuleLoadData);
  if (capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  *module = handle<CUmodule>(contexts[current.back()]);
  return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  ENTER(cuModuleGetFunction);
  const size_t made = entries.size();
  if (made == most_functions) return CUDA_ERROR_OUT_OF_MEMORY;
  functions[made].device = contexts[place(contexts, most_devices, module)].device;
  entries.push_back(name);
  *function = handle<CUfunction>(functions[made]);
  return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream, int* status) {
  const std::lock_guard lock(mutex);
  *status = capturing;
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) {
  ENTER(cuFuncSetAttribute);
  return CUDA_SUCCESS;
}
CUresult cuMemHostRegister_v2(void*, std::size_t, unsigned) {
  ENTER(cuMemHostRegister_v2);
  return CUDA_SUCCESS;
}
CUresult cuMemHostUnregister(void*) { return CUDA_SUCCESS; }

#ifndef STUB_IS_OLD
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, std::uint32_t rank, void* address,
                                const std::uint64_t* extent, const std::uint64_t* stride, const std::uint32_t* box,
                                const std::uint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  ENTER(cuTensorMapEncodeTiled);
  Encoded encoded = {type, rank, reinterpret_cast<std::uint64_t>(address), {}, {}, {}, swizzle};
  std::copy(extent, extent + rank, encoded.extents);
  std::copy(stride, stride + rank - 1, encoded.strides);
  std::copy(box, box + rank, encoded.box);
  std::memcpy(map, &encoded, sizeof encoded);
  return CUDA_SUCCESS;
}
// A function belongs to a context, which must be the current one and the stream's: on hardware it is an error too.
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void**) {
  ENTER(cuLaunchKernelEx);
  const int made = place(functions, most_functions, function);
  const int stream = config->hStream ? place(streams, most_streams, config->hStream) : -1;
  if (made < 0 || current.empty()) return CUDA_ERROR_INVALID_HANDLE;
  if (functions[made].device != current.back()) return CUDA_ERROR_INVALID_CONTEXT;
  if (stream >= 0 && streams[stream].device != current.back()) return CUDA_ERROR_INVALID_HANDLE;
  if (recording) record(*config, made, stream, parameters);
  return CUDA_SUCCESS;
}
#endif

}  // extern "C"
