// Many calls at once on one thread pool that has fewer threads than there are callers.
#pragma once

#include <cstdint>
#include <string>

struct ConcurrencyResult {
  int64_t calls = 0;
  std::string failure;  // empty: none
};

// Callers beside the pool and callers that are the pool's own threads, as XLA's are. Every call must end, and its
// results must be bit for bit those of the same call on one thread.
ConcurrencyResult concurrent_calls(uint64_t seed, int64_t calls);
