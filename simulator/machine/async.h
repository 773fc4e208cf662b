// Asynchronous operations that were issued and not yet performed; a schedule says when they are.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "check/clock.h"
#include "machine/grid.h"

namespace sim {

// What the issuer knew: shared by the accesses of one operation.
using Known = std::shared_ptr<const check::Knowledge>;

// Operations of one CTA pair's tcgen05 pipe are performed in the order of issue, all others in any order.
class AsyncEngine {
 public:
  AsyncEngine(const Options& options, u32 cluster)
      : schedule_(options.schedule), random_(options.seed * 0x9E3779B97F4A7C15 + cluster) {}

  // An operation without order. It may submit another when performed (the write that follows a read).
  void submit(std::function<void()> operation);
  // In the order of its pipe (the rank of the CTA, or of the pair's even CTA).
  void submit_tcgen05(u32 pipe, std::function<void()> operation);

  bool idle() const { return unordered_.empty() && queued_ == 0; }
  void perform_one();       // the oldest, or a random one that may go
  bool perform_some();      // a random schedule's turn: none or a few
  std::mt19937_64& random() { return random_; }

 private:
  Schedule schedule_;
  std::mt19937_64 random_;
  std::deque<std::function<void()>> unordered_;
  std::vector<std::deque<std::function<void()>>> pipes_;
  std::size_t queued_ = 0;  // in pipes
};

}  // namespace sim
