// Global memory's allocations, and the words in which accesses are named.
#include "machine/memory.h"

#include <algorithm>
#include <cstdio>

namespace sim {

std::string hex(u64 value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

check::Site Origin::site() const {
  std::string lanes_text;
  if (lanes && (lanes & (lanes - 1)) == 0) {
    lanes_text = " lane " + std::to_string(__builtin_ctz(lanes));
  } else if (lanes != all_lanes && lanes) {
    lanes_text = " lanes " + hex(lanes);
  }
  if (warp == unknown_warp) return {what, pc};
  std::string who = "warp " + std::to_string(warp) + lanes_text;
  return {*what ? std::string(what) + " issued by " + who : who, pc};
}

GlobalMemory::GlobalMemory(std::vector<Allocation> allocations) : sorted_(std::move(allocations)) {
  std::ranges::sort(sorted_, {}, &Allocation::address);
}

const Allocation* GlobalMemory::find(u64 address, u64 bytes) const {
  auto after = std::ranges::upper_bound(sorted_, address, {}, &Allocation::address);
  if (after == sorted_.begin()) return nullptr;
  const Allocation& allocation = *std::prev(after);
  u64 start = address - allocation.address;
  return start < allocation.bytes && bytes <= allocation.bytes - start ? &allocation : nullptr;
}

std::string GlobalMemory::nearest(u64 address) const {
  auto after = std::ranges::upper_bound(sorted_, address, {}, &Allocation::address);
  if (after == sorted_.begin()) return "below every allocation";
  const Allocation& allocation = *std::prev(after);
  u64 end = allocation.address + allocation.bytes;
  std::string which = std::to_string(allocation.bytes) + " bytes at " + hex(allocation.address);
  if (address < end) return std::to_string(end - address) + " bytes before the end of the allocation of " + which;
  return std::to_string(address - end) + " bytes after the allocation of " + which;
}

}  // namespace sim
