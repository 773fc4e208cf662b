// mbarrier objects: pending count, tx-count, phase (PTX ISA, "Parallel Synchronization: mbarrier").
#pragma once

#include <memory>
#include <vector>

#include "check/clock.h"

namespace sim {

struct Mbarrier {
  static constexpr u32 max_count = (1u << 20) - 1;
  static constexpr i64 max_tx = (1 << 20) - 1;

  u32 offset = 0;               // in its CTA's shared memory
  bool valid = false;
  u32 count = 0;                // arrivals a phase expects
  u32 pending = 0;              // of which still missing
  i64 tx = 0;                   // bytes announced less bytes arrived
  u64 phase = 0;                // completed phases; what waiting lanes watch
  bool fenced = false;          // the initialisation was made visible to the async proxy and the cluster
  u64 published = 0;            // by fence.mbarrier_init and the barrier.cluster generation of this number (from 1)

  // Who initialised it, and who is known to come after that.
  check::Agent init_agent = 0;
  check::Time init_time = 0;
  Mask init_lanes = 0;
  u32 init_pc = 0;

  check::Knowledge arriving, completed;
  bool copies = false;          // bulk copies signal the current phase
  u32 unobserved_copy = ~0u;    // pc of a copy whose phase completed and that nobody has waited for
  u32 last_copy = ~0u;
  check::Agent copy_agent = 0;  // 0: none yet
  check::Time copy_time = 1;
  // The last ones, for reports: a thread, or the issuer of what arrived.
  struct By {
    u32 pc = ~0u;
    Dim3 cta;
    u32 warp = 0;
  };
  By arriver, announcer;

  u32 parity() const { return static_cast<u32>(phase & 1); }
  // Ends the phase if nothing is missing.
  void settle();
};

// The mbarriers of one CTA, found by their offset.
class MbarrierTable {
 public:
  explicit MbarrierTable(u32 shared_bytes) : index_(shared_bytes / 8 + 1) {}
  Mbarrier* find(u32 offset) { return index_[offset / 8] ? all_[index_[offset / 8] - 1].get() : nullptr; }
  Mbarrier& create(u32 offset);
  bool overlaps(u32 offset, u32 bytes) const { return offset < high_ && offset + bytes > low_; }
  const std::vector<std::unique_ptr<Mbarrier>>& all() const { return all_; }

 private:
  std::vector<u16> index_;      // 1 + position in all_
  std::vector<std::unique_ptr<Mbarrier>> all_;
  u32 low_ = ~0u, high_ = 0;
};

}  // namespace sim
