// Runs numbered tasks on XLA's thread pool. The caller works too, and at the end waits only for tasks that others have
// begun, never for a helper that the pool has not started: any number of concurrent calls makes progress.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "xla/ffi/api/ffi.h"

namespace jax_fa4::cpu {

// `work(task)` runs once for every task in [0, tasks), on at most `threads` threads. It must not throw.
template <class Work>
void parallel_for(xla::ffi::ThreadPool& pool, int64_t threads, int64_t tasks, const Work& work) {
  struct State {
    std::atomic<int64_t> next{0}, done{0};
  };
  if (tasks <= 1 || threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) work(task);
    return;
  }
  // A helper that starts after the end finds no task left and touches nothing but the state, which it shares.
  const auto state = std::make_shared<State>();
  auto take_part = [state, tasks, &work] {
    int64_t finished = 0;
    for (int64_t task; (task = state->next.fetch_add(1, std::memory_order_relaxed)) < tasks; ++finished) work(task);
    if (finished && state->done.fetch_add(finished, std::memory_order_acq_rel) + finished == tasks)
      state->done.notify_all();
  };
  const int64_t helpers = (threads < tasks ? threads : tasks) - 1;
  for (int64_t helper = 0; helper < helpers; ++helper) pool.Schedule(decltype(take_part)(take_part));
  take_part();
  for (int64_t done; (done = state->done.load(std::memory_order_acquire)) < tasks;) state->done.wait(done);
}

}  // namespace jax_fa4::cpu
