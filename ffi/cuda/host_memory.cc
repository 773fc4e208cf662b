#include "host_memory.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <tuple>

#include "error.h"

namespace jax_fa4::cuda {
namespace {

struct Registered {
  HostRange range;
  int users = 0;
};

std::mutex mutex;
std::condition_variable released;
// By context (a driver that was reset has forgotten the old one's) and address. No two of a context overlap.
std::map<std::tuple<CUcontext, std::uintptr_t>, Registered> registered;

bool overlap(const HostRange& a, const HostRange& b) { return a.address < b.end() && b.address < a.end(); }

bool holds(const HostRange& outer, const HostRange& inner) {
  return outer.address <= inner.address && inner.end() <= outer.end() && (outer.writable || !inner.writable);
}

// Of one call: sorted, and those that overlap joined. Neighbours stay apart, so that a step beyond an array is seen.
std::vector<HostRange> joined(std::vector<HostRange> ranges) {
  std::erase_if(ranges, [](const HostRange& range) { return range.bytes == 0; });
  std::sort(ranges.begin(), ranges.end(), [](const HostRange& a, const HostRange& b) { return a.address < b.address; });
  std::vector<HostRange> result;
  for (const HostRange& range : ranges) {
    if (result.empty() || !overlap(result.back(), range)) {
      result.push_back(range);
      continue;
    }
    HostRange& last = result.back();
    last.bytes = std::max(last.end(), range.end()) - last.address;
    last.writable = last.writable || range.writable;
  }
  return result;
}

// The registered range that holds this one, if any.
Registered* holder(CUcontext context, const HostRange& range) {
  auto at = registered.upper_bound({context, range.address});
  if (at == registered.begin()) return nullptr;
  --at;
  return std::get<0>(at->first) == context && holds(at->second.range, range) ? &at->second : nullptr;
}

bool in_the_way(CUcontext context, const HostRange& range) {
  if (holder(context, range)) return false;
  return std::any_of(registered.begin(), registered.end(), [&](const auto& entry) {
    return std::get<0>(entry.first) == context && overlap(entry.second.range, range);
  });
}

}  // namespace

HostMemory::HostMemory(const Driver& driver, CUcontext context, std::vector<HostRange> ranges)
    : driver_(driver), context_(context), ranges_(joined(std::move(ranges))) {
  std::unique_lock lock(mutex);
  // All or nothing: who waits holds nothing.
  released.wait(lock, [&] {
    return std::none_of(ranges_.begin(), ranges_.end(), [&](const auto& range) { return in_the_way(context_, range); });
  });
  for (size_t i = 0; i < ranges_.size(); ++i) {
    const HostRange& range = ranges_[i];
    if (Registered* holding = holder(context_, range)) {
      ++holding->users;
      continue;
    }
    const unsigned flags = register_device_map | (range.writable ? 0 : register_read_only);
    const CUresult result = driver_.cuMemHostRegister_v2(reinterpret_cast<void*>(range.address), range.bytes, flags);
    if (result != CUDA_SUCCESS) {
      release(i);
      fail_call(driver_, result, "declaring " + std::to_string(range.bytes) + " bytes of an array to the driver");
    }
    registered[{context_, range.address}] = {range, 1};
  }
}

HostMemory::~HostMemory() {
  const std::lock_guard lock(mutex);
  release(ranges_.size());
}

void HostMemory::release(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    Registered& holding = *holder(context_, ranges_[i]);
    if (--holding.users > 0) continue;
    driver_.cuMemHostUnregister(reinterpret_cast<void*>(holding.range.address));
    registered.erase({context_, holding.range.address});
  }
  released.notify_all();
}

}  // namespace jax_fa4::cuda
