// Memory that kernels may touch, and copies (CUDA driver API, "Memory Management"). Addresses are host addresses.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "driver/state.h"

namespace sim::driver {
namespace {

constexpr std::size_t allocation_alignment = 512;

// The buffer that holds the whole range, which a copy keeps alive while it runs.
std::shared_ptr<Buffer> reachable(const State& state, u64 address, u64 bytes) {
  auto at = state.memory.upper_bound(address);
  if (at != state.memory.begin()) {
    const std::shared_ptr<Buffer>& buffer = (--at)->second;
    const u64 offset = address - buffer->address;
    if (offset <= buffer->bytes && bytes <= buffer->bytes - offset) return buffer;
  }
  refuse(CUDA_ERROR_INVALID_VALUE, std::to_string(bytes) + " bytes at " + hexadecimal(address) +
                                       " lie in no allocation or registered range");
}

bool overlaps(const State& state, u64 address, u64 bytes) {
  const auto after = state.memory.lower_bound(address + bytes);
  if (after == state.memory.begin()) return false;
  const Buffer& before = *std::prev(after)->second;
  return before.address + before.bytes > address;
}

void* host(u64 address) { return reinterpret_cast<void*>(address); }

CUresult copy(const char* call, void* to, const void* from, CUdeviceptr device, std::size_t bytes, CUstream stream) {
  return answer(call, [&] {
    std::shared_ptr<Buffer> buffer;
    {
      Locked state = initialised();
      state->check_stream(stream);
      if (bytes == 0) return;
      buffer = reachable(*state, device, bytes);
    }
    check_pointer(to, "the destination");
    check_pointer(from, "the source");
    std::memmove(to, from, bytes);
  });
}

template <class Value>
CUresult fill(const char* call, CUdeviceptr to, Value value, std::size_t count, CUstream stream) {
  return answer(call, [&] {
    std::shared_ptr<Buffer> buffer;
    {
      Locked state = initialised();
      state->check_stream(stream);
      if (count == 0) return;
      if (to % sizeof(Value)) refuse(CUDA_ERROR_INVALID_VALUE, hexadecimal(to) + " is not aligned to the value");
      if (count > ~u64{0} / sizeof(Value)) refuse(CUDA_ERROR_INVALID_VALUE, "the range passes the end of memory");
      buffer = reachable(*state, to, count * sizeof(Value));
    }
    Value* place = static_cast<Value*>(host(to));
    std::fill(place, place + count, value);
  });
}

}  // namespace

CUresult cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes) {
  return answer("cuMemAlloc", [&] {
    Locked state = initialised();
    check_pointer(address, "dptr");
    state->check_context();
    if (bytes == 0) refuse(CUDA_ERROR_INVALID_VALUE, "bytesize is 0");
    if (bytes > state->device->memory_bytes - state->allocated_bytes)
      refuse(CUDA_ERROR_OUT_OF_MEMORY, std::to_string(bytes) + " bytes are more than the device has left");
    auto buffer = std::make_shared<Buffer>();
    const std::size_t rounded = (bytes + allocation_alignment - 1) / allocation_alignment * allocation_alignment;
    buffer->owned = std::aligned_alloc(allocation_alignment, rounded);
    if (!buffer->owned) refuse(CUDA_ERROR_OUT_OF_MEMORY, "the host has no " + std::to_string(bytes) + " bytes");
    // NaN in every floating-point format: what a kernel forgot to write shows.
    std::memset(buffer->owned, 0xFF, rounded);
    buffer->address = reinterpret_cast<u64>(buffer->owned);
    buffer->bytes = bytes;
    state->allocated_bytes += bytes;
    *address = buffer->address;
    state->memory.emplace(buffer->address, std::move(buffer));
  });
}

CUresult cuMemFree_v2(CUdeviceptr address) {
  return answer("cuMemFree", [&] {
    Locked state = initialised();
    state->check_context();
    const auto at = state->memory.find(address);
    if (at == state->memory.end() || !at->second->owned)
      refuse(CUDA_ERROR_INVALID_VALUE, hexadecimal(address) + " is no allocation's address");
    state->allocated_bytes -= at->second->bytes;
    state->memory.erase(at);
  });
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes) {
  return copy("cuMemcpyHtoD", host(to), from, to, bytes, nullptr);
}

CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes) {
  return copy("cuMemcpyDtoH", to, host(from), from, bytes, nullptr);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes, CUstream stream) {
  return copy("cuMemcpyHtoDAsync", host(to), from, to, bytes, stream);
}

CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  return copy("cuMemcpyDtoHAsync", to, host(from), from, bytes, stream);
}

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, std::size_t count) {
  return fill("cuMemsetD8", to, value, count, nullptr);
}

CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, std::size_t count) {
  return fill("cuMemsetD32", to, value, count, nullptr);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t count, CUstream stream) {
  return fill("cuMemsetD8Async", to, value, count, stream);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, std::size_t count, CUstream stream) {
  return fill("cuMemsetD32Async", to, value, count, stream);
}

// Kernels reach the range at its host address, as CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM says.
CUresult cuMemHostRegister_v2(void* address, std::size_t bytes, unsigned flags) {
  return answer("cuMemHostRegister", [&] {
    Locked state = initialised();
    state->check_context();
    check_pointer(address, "p");
    const u64 first = reinterpret_cast<u64>(address);
    if (bytes == 0 || bytes > ~u64{0} - first)
      refuse(CUDA_ERROR_INVALID_VALUE, "bytesize " + std::to_string(bytes) + " is 0, or passes the end of memory");
    if (flags & ~(register_portable | register_device_map | register_read_only))
      refuse(CUDA_ERROR_INVALID_VALUE,
             "flags may combine portable, device map and read only, got " + std::to_string(flags));
    if (overlaps(*state, first, bytes))
      refuse(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
             "a part of the " + std::to_string(bytes) + " bytes at " + hexadecimal(first) + " is registered");
    auto buffer = std::make_shared<Buffer>();
    buffer->address = first;
    buffer->bytes = bytes;
    buffer->writable = !(flags & register_read_only);
    state->memory.emplace(first, std::move(buffer));
  });
}

CUresult cuMemHostUnregister(void* address) {
  return answer("cuMemHostUnregister", [&] {
    Locked state = initialised();
    state->check_context();
    check_pointer(address, "p");
    const auto at = state->memory.find(reinterpret_cast<u64>(address));
    if (at == state->memory.end() || at->second->owned)
      refuse(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
             hexadecimal(reinterpret_cast<u64>(address)) + " is no registered range's address");
    state->memory.erase(at);
  });
}

}  // namespace sim::driver
