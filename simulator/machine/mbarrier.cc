// mbarrier objects: phases.
#include "machine/mbarrier.h"

#include <algorithm>

namespace sim {

void Mbarrier::settle() {
  if (pending != 0 || tx != 0) return;
  ++phase;
  pending = count;
  if (copies) {
    unobserved_copy = last_copy;
    arriving.generic.learn(copy_agent, copy_time);
    arriving.fenced.learn(copy_agent, copy_time);
    ++copy_time;
  }
  copies = false;
  completed = std::move(arriving);
  arriving = {};
}

Mbarrier& MbarrierTable::create(u32 offset) {
  if (Mbarrier* existing = find(offset)) {
    check::Agent agent = existing->copy_agent;
    check::Time time = existing->copy_time;
    *existing = {};
    existing->offset = offset;
    existing->copy_agent = agent;
    existing->copy_time = time;
    return *existing;
  }
  all_.push_back(std::make_unique<Mbarrier>());
  index_[offset / 8] = static_cast<u16>(all_.size());
  low_ = std::min(low_, offset);
  high_ = std::max(high_, offset + 8);
  all_.back()->offset = offset;
  return *all_.back();
}

}  // namespace sim
