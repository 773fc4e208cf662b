// Barriers of a CTA (bar, barrier) and of a cluster (barrier.cluster): count arrivals, pass knowledge on.
#pragma once

#include "check/clock.h"

namespace sim {

struct NamedBarrier {
  u32 expected = 0;        // threads; set by the first arrival of a generation
  u32 arrived = 0;
  bool everyone = false;   // no count was given: all threads of the CTA that have not exited
  u64 generation = 0;      // completed ones; what waiting warps watch
  u32 last_pc = ~0u;       // of an arrival, for reports
  check::Knowledge arriving, completed;

  bool full(u32 running_warps) const { return arrived && arrived >= (everyone ? running_warps * warp_size : expected); }

  void complete() {
    ++generation;
    arrived = expected = 0;
    completed = std::move(arriving);
    arriving = {};
  }
};

}  // namespace sim
