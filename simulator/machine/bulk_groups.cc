// Bulk groups of one warp.
#include "machine/bulk_groups.h"

#include <algorithm>
#include <utility>

namespace sim {

u64 BulkGroups::issue(int lane, u32 pc) {
  operations_.push_back({pc});
  lanes_[static_cast<std::size_t>(lane)].open.push_back(operations_.size() - 1);
  return operations_.size() - 1;
}

void BulkGroups::commit(Mask lanes, check::Time group_time) {
  for (Mask rest = lanes; rest; rest &= rest - 1) {
    Lane& lane = lanes_[static_cast<std::size_t>(__builtin_ctz(rest))];
    lane.groups.push_back({std::move(lane.open), group_time});
    lane.open.clear();
  }
}

void BulkGroups::finished_reading(u64 number) {
  operations_[number].read = true;
  ++version;
}

void BulkGroups::finished_writing(u64 number) {
  operations_[number].written = true;
  ++version;
}

bool BulkGroups::await(Mask lanes, u32 allowed, bool read_only, check::Time& known) {
  auto done = [&](u64 number) { return read_only ? operations_[number].read : operations_[number].written; };
  for (Mask rest = lanes; rest; rest &= rest - 1) {
    const auto& groups = lanes_[static_cast<std::size_t>(__builtin_ctz(rest))].groups;
    for (std::size_t i = 0; i + allowed < groups.size(); ++i)
      if (!std::ranges::all_of(groups[i].operations, done)) return false;
  }
  for (Mask rest = lanes; rest; rest &= rest - 1) {
    Lane& lane = lanes_[static_cast<std::size_t>(__builtin_ctz(rest))];
    for (std::size_t i = 0; i + allowed < lane.groups.size(); ++i) {
      known = std::max(known, lane.groups[i].time);
      lane.groups[i].read_awaited = true;
    }
    if (!read_only) known = std::max(known, std::exchange(lane.written, 0));
    auto finished = [&](u64 number) { return operations_[number].written; };
    while (lane.groups.size() > allowed && std::ranges::all_of(lane.groups.front().operations, finished)) {
      if (read_only) lane.written = lane.groups.front().time;
      lane.groups.pop_front();
    }
  }
  return true;
}

u32 BulkGroups::unawaited() const {
  for (const Lane& lane : lanes_) {
    if (!lane.open.empty()) return operations_[lane.open.front()].pc;
    for (const Group& group : lane.groups)
      if (!group.read_awaited && !group.operations.empty()) return operations_[group.operations.front()].pc;
  }
  return ~0u;
}

}  // namespace sim
