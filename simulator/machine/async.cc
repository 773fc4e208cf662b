// Asynchronous operations: when they are performed.
#include "machine/async.h"

namespace sim {

void AsyncEngine::submit(std::function<void()> operation) {
  if (schedule_ == Schedule::eager)
    operation();
  else
    unordered_.push_back(std::move(operation));
}

void AsyncEngine::submit_tcgen05(u32 pipe, std::function<void()> operation) {
  if (schedule_ == Schedule::eager) return operation();
  if (pipes_.size() <= pipe) pipes_.resize(pipe + 1);
  pipes_[pipe].push_back(std::move(operation));
  ++queued_;
}

void AsyncEngine::perform_one() {
  std::size_t candidates = unordered_.size();
  for (const auto& pipe : pipes_) candidates += pipe.empty() ? 0 : 1;
  std::size_t chosen = schedule_ == Schedule::random ? random_() % candidates : 0;
  std::function<void()> operation;
  if (chosen < unordered_.size()) {
    auto place = unordered_.begin() + static_cast<std::ptrdiff_t>(chosen);
    operation = std::move(*place);
    unordered_.erase(place);
  } else {
    chosen -= unordered_.size();
    for (auto& pipe : pipes_) {
      if (pipe.empty() || chosen-- != 0) continue;
      operation = std::move(pipe.front());
      pipe.pop_front();
      --queued_;
      break;
    }
  }
  operation();
}

bool AsyncEngine::perform_some() {
  bool any = false;
  for (; !idle() && random_() % 4 == 0; any = true) perform_one();
  return any;
}

}  // namespace sim
