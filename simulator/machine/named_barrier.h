// Barriers of a CTA (bar, barrier) and of a cluster (barrier.cluster): count arrivals, pass knowledge on.
#pragma once

#include "check/clock.h"

namespace sim {

struct NamedBarrier {
  u32 expected = 0;        // threads; set by the first arrival of a generation
  u32 arrived = 0;
  u64 generation = 0;      // completed ones; what waiting warps watch
  u32 last_pc = ~0u;       // of an arrival, for reports
  check::Knowledge arriving, completed;

  void complete() {
    ++generation;
    arrived = expected = 0;
    completed = std::move(arriving);
    arriving = {};
  }
};

}  // namespace sim
