// The last accesses to global memory, of all clusters of a launch.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "check/agents.h"
#include "check/shadow.h"

namespace sim::check {

// One write and the two newest readers that do not know of each other; a third one's race is lost, and so is the write
// of the other half of a cell that two agents share. Global memory is large and mostly read, so this stays small.
struct GlobalCell {
  Entry write;
  Entry reads[2];
  // The earlier access with which the new one conflicts (the cell is disarmed), or null (it is recorded).
  bool access(const Access& access, Entry& conflict);
};

// 4 KiB of global memory: a cell per 16 bytes, and four cells where an access touched a part of these.
class GlobalPage {
 public:
  static constexpr u64 bytes = 4096, line_bytes = 16;
  // Calls found(conflicting entry, first byte, end) with offsets in the page, under the page's lock.
  template <class Found>
  void access(Access& access, u32 begin, u32 end, Found&& found);

 private:
  class Lock {
   public:
    explicit Lock(std::atomic_flag& flag);
    ~Lock() { flag_.clear(std::memory_order_release); }

   private:
    std::atomic_flag& flag_;
  };
  GlobalCell* split(u32 line);

  std::atomic_flag busy_;
  u16 split_[bytes / line_bytes] = {};  // 1 + index in parts_; 0: not split
  GlobalCell lines_[bytes / line_bytes];
  std::vector<std::unique_ptr<GlobalCell[]>> parts_;
};

class GlobalHistory {
 public:
  GlobalPage& page(u64 number);  // valid as long as this object
  void enter(u32 cluster, std::shared_ptr<const Agents> agents);
  std::shared_ptr<const Agents> agents(u32 cluster) const;

 private:
  static constexpr std::size_t stripes = 64;
  struct Stripe {
    std::mutex mutex;
    std::unordered_map<u64, std::unique_ptr<GlobalPage>> pages;
  };
  Stripe stripes_[stripes];
  mutable std::mutex mutex_;
  std::unordered_map<u32, std::shared_ptr<const Agents>> agents_;
};

template <class Found>
void GlobalPage::access(Access& access, u32 begin, u32 end, Found&& found) {
  const Lock lock(busy_);
  Entry conflict;
  while (begin < end) {
    const u32 line = begin / line_bytes;
    const u32 stop = std::min<u32>((line + 1) * line_bytes, end);
    if (stop - begin == line_bytes && !split_[line]) {
      access.set_bytes(15);
      if (!lines_[line].access(access, conflict)) found(conflict, begin, stop);
      begin = stop;
      continue;
    }
    GlobalCell* parts = split(line);
    while (begin < stop) {
      const u32 next = std::min((begin | 3) + 1, stop);
      access.set_bytes(((1u << (next - begin)) - 1) << (begin & 3));
      if (!parts[begin % line_bytes / 4].access(access, conflict)) found(conflict, begin, next);
      begin = next;
    }
  }
}

}  // namespace sim::check
