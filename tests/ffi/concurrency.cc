#include "concurrency.h"

#include <latch>

#include "judge.h"

namespace {

constexpr int64_t callers = 6;
constexpr int pool_threads = 2;
constexpr int64_t pool_says = 5;  // more than there are: some helpers start late or never

// A call with enough tasks for several threads.
Call wide_call(Prng& random) {
  Extents extents = random_extents(random, 5);
  extents.batch = {random.between(1, 2), random.between(1, 3)};
  extents.T = random.between(1, 90);
  extents.S = random.between(1, 70);
  return random_call(random, extents);
}

bool equal(const std::vector<Buffer>& a, const std::vector<Buffer>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), [](const Buffer& left, const Buffer& right) {
    return left.bytes == 0 || memcmp(left.data, right.data, left.bytes) == 0;
  });
}

// The same call alone, on the pool, and not run: operands stay as they are.
std::string compare(uint64_t seed, ThreadedPool& pool) {
  Call calls[3];
  for (Call& call : calls) {
    Prng random(seed);
    call = wide_call(random);
    if (!valid(call) || !prepare(random, call)) return "the generator made an unfit call";
  }
  InlinePool alone(1);
  if (const std::string failure = run_and_judge(calls[0], true, alone); !failure.empty()) return failure;
  if (const std::string failure = run_and_judge(calls[1], true, pool); !failure.empty()) return failure;
  if (!equal(calls[1].operands, calls[2].operands)) return "operands were written";
  return equal(calls[0].results, calls[1].results) ? "" : "results on several threads differ from those on one";
}

// Each caller keeps the first failure that it meets, with the seed that repeats it.
class Callers {
 public:
  Callers(uint64_t seed, int64_t calls) : seed_(seed), calls_(calls), done_(callers) {}

  void issue(int64_t caller, ThreadedPool& pool) {
    for (int64_t i = 0; i < calls_ && failures_[caller].empty(); ++i) {
      failures_[caller] = compare(seed_ + uint64_t(caller * calls_ + i), pool);
    }
    done_.count_down();
  }
  void wait() { done_.wait(); }
  std::string failure() const {
    for (const std::string& failure : failures_)
      if (!failure.empty()) return failure;
    return "";
  }

 private:
  const uint64_t seed_;
  const int64_t calls_;
  std::latch done_;
  std::string failures_[callers];
};

std::string callers_beside_pool(uint64_t seed, int64_t calls) {
  ThreadedPool pool(pool_says, pool_threads, std::chrono::microseconds(200));
  Callers all(seed, calls);
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < callers; ++i) threads.emplace_back([&, i] { all.issue(i, pool); });
  for (std::thread& thread : threads) thread.join();
  return all.failure();
}

// With every thread of the pool inside a call, no helper can start before a call has ended.
std::string callers_on_pool(uint64_t seed, int64_t calls) {
  struct Caller {
    Callers& all;
    ThreadedPool& pool;
    int64_t number;
  };
  ThreadedPool pool(pool_says, pool_threads, std::chrono::microseconds(0));
  Callers all(seed, calls);
  std::vector<Caller> each;
  for (int64_t i = 0; i < callers; ++i) each.push_back({all, pool, i});
  for (Caller& caller : each)
    pool.schedule(
        [](void* data) {
          Caller& self = *static_cast<Caller*>(data);
          self.all.issue(self.number, self.pool);
        },
        &caller);
  all.wait();
  return all.failure();
}

}  // namespace

ConcurrencyResult concurrent_calls(uint64_t seed, int64_t calls) {
  const int64_t each = (calls + 2 * callers - 1) / (2 * callers);
  ConcurrencyResult result = {2 * callers * each, callers_beside_pool(seed, each)};
  if (result.failure.empty()) result.failure = callers_on_pool(seed + uint64_t(callers * each), each);
  return result;
}
