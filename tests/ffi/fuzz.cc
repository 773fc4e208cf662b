// Calls the CPU handlers with random valid and random malformed call frames, under sanitizers.
//   ffi_fuzz [--calls N] [--seed S] [--first K]
// Call K of seed S is the same in every run. Instruction sets take turns unless JAX_FA4_CPU_ISA names one.
#include <signal.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "../../ffi/cpu/kernels.h"
#include "concurrency.h"
#include "judge.h"
#include "mutate.h"

namespace {

constexpr int64_t turn = 1000;           // calls before the next instruction set
constexpr unsigned patience = 300;       // seconds for a turn, or for the concurrent calls
constexpr double largest_work = 300000;  // products of a call

struct Tally {
  int64_t calls = 0, accepted = 0, refused = 0, skipped = 0;

  void add(const Tally& other) {
    calls += other.calls, accepted += other.accepted, refused += other.refused, skipped += other.skipped;
  }
};

struct Options {
  int64_t calls = 1000000, seed = 1, first = 0;
};

Options options;
int64_t current = 0;
bool concurrent = false;

void print_place() {
  fprintf(stderr, "ffi_fuzz: repeat with --seed %" PRId64, options.seed);
  if (!concurrent) fprintf(stderr, " --first %" PRId64 " --calls 1", current);
  fprintf(stderr, "\n");
}

void crashed(int) {
  print_place();
  _exit(1);
}

void give_up(int) {
  print_place();
  fprintf(stderr, "ffi_fuzz: no end after %u seconds\n", patience);
  _exit(1);
}

[[noreturn]] void fail(const std::string& failure, const std::string& mutated) {
  fprintf(stderr, "ffi_fuzz: %s\n  changed:%s\n", failure.c_str(), mutated.empty() ? " nothing" : mutated.c_str());
  print_place();
  exit(1);
}

std::vector<std::string> instruction_sets() {
  if (const char* wanted = getenv("JAX_FA4_CPU_ISA")) return {wanted};
  std::vector<std::string> names;
  std::string list = jax_fa4::cpu::kernel_names();
  for (size_t comma; (comma = list.find(", ")) != std::string::npos; list.erase(0, comma + 2))
    names.push_back(list.substr(0, comma));
  names.push_back(list);
  return names;
}

// The pools that never run two tasks at a time, so that a call can be repeated.
struct Pools {
  explicit Pools(Prng& random)
      : says(random.pick({int64_t{-1}, int64_t{0}, int64_t{1}, int64_t{4}, int64_t{1000}, INT64_MAX})),
        kind(random.below(3)), at_once(says), none(says), late(says) {}
  XLA_FFI_ExecutionContext& chosen() {
    if (kind == 0) return at_once;
    if (kind == 1) return none;
    return late;
  }

  int64_t says, kind;
  InlinePool at_once;
  RefusingPool none;
  LatePool late;
};

std::vector<size_t> random_mutations(Prng& random) {
  std::vector<size_t> chosen;
  if (random.chance(20)) return chosen;
  for (int64_t count = random.pick({1, 1, 1, 2, 3}); count > 0; --count)
    chosen.push_back(size_t(random.below(int64_t(mutations().size()))));
  return chosen;
}

void dump(const Call& call) {
  const auto print = [](const char* what, const std::vector<Buffer>& buffers) {
    for (const Buffer& buffer : buffers) {
      fprintf(stderr, "  %s: type %d, place %d, buffer %d, [", what, int(buffer.type), int(buffer.place),
              buffer.is_buffer);
      for (int64_t extent : buffer.dims) fprintf(stderr, " %" PRId64, extent);
      fprintf(stderr, " ]\n");
    }
  };
  fprintf(stderr, "ffi_fuzz: %s\n", call.backward ? "backward" : "forward");
  print("operand", call.operands);
  print("result", call.results);
  for (const Attribute& attribute : call.attributes)
    fprintf(stderr, "  attribute %s: kind %d, type %d, %#" PRIx64 "\n", attribute.name.c_str(), int(attribute.kind),
            int(attribute.type), attribute.bits);
}

// Builds, runs and judges call `number`.
Tally run_one(int64_t number, std::vector<size_t>& mutated) {
  Prng random(Prng(uint64_t(options.seed)).next() + uint64_t(number) * 0xd1342543de82ef95);
  mutated = random_mutations(random);
  Extents extents = random_extents(random, 70);
  for (size_t i : mutated)
    if (mutations()[i].extents) mutations()[i].extents(random, extents);
  std::optional<Call> call = random_call(random, extents);
  for (size_t i : mutated)
    if (mutations()[i].call) mutations()[i].call(random, *call);

  const bool is_valid = valid(*call);
  if (mutated.empty() && !is_valid) fail("the generator made an invalid call", "");
  if (is_valid && (work(*call) > largest_work || !prepare(random, *call))) return {1, 0, 0, 1};
  if (options.calls == 1) dump(*call);

  Pools pools(random);
  const std::string failure = run_and_judge(*call, is_valid, pools.chosen());
  if (!failure.empty()) {
    std::string names;
    for (size_t i : mutated) names += std::string(" [") + mutations()[i].name + "]";
    dump(*call);
    fail(failure, names);
  }
  call.reset();
  pools.late.run();
  return {1, is_valid, !is_valid, 0};
}

void print(const char* name, const Tally& tally) {
  printf("%-22s %9" PRId64 " %9" PRId64 " %9" PRId64 " %9" PRId64 "\n", name, tally.calls, tally.accepted,
         tally.refused, tally.skipped);
}

void one_by_one(const std::vector<std::string>& sets) {
  std::vector<Tally> by_kind(mutations().size());
  Tally clean, total;
  std::vector<size_t> mutated;
  const int64_t last = options.first + options.calls;
  for (current = options.first; current < last; ++current) {
    if (current % turn == 0 || current == options.first) {
      setenv("JAX_FA4_CPU_ISA", sets[size_t(current / turn) % sets.size()].c_str(), 1);
      alarm(patience);
    }
    const Tally one = run_one(current, mutated);
    total.add(one);
    if (mutated.empty()) clean.add(one);
    for (size_t i : mutated) by_kind[i].add(one);
  }
  printf("%-22s %9s %9s %9s %9s\n", "changed", "calls", "accepted", "refused", "skipped");
  print("nothing", clean);
  for (size_t i = 0; i < by_kind.size(); ++i) print(mutations()[i].name, by_kind[i]);
  print("all", total);
}

void concurrently(const std::vector<std::string>& sets) {
  concurrent = true;
  for (const std::string& set : sets) {
    setenv("JAX_FA4_CPU_ISA", set.c_str(), 1);
    alarm(patience);
    const ConcurrencyResult result = concurrent_calls(uint64_t(options.seed), options.calls / 1000);
    if (!result.failure.empty()) fail(set + ": " + result.failure, "");
    printf("%" PRId64 " concurrent calls with %s\n", result.calls, set.c_str());
  }
}

void parse(int argc, char** argv) {
  const auto usage = [&] {
    fprintf(stderr, "usage: %s [--calls N] [--seed S] [--first K]\n", argv[0]);
    exit(2);
  };
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    char* end = nullptr;
    const int64_t value = i + 1 < argc ? strtoll(argv[i + 1], &end, 10) : -1;
    if (value < 0 || !end || *end) usage();
    if (name == "--calls") options.calls = value;
    else if (name == "--seed") options.seed = value;
    else if (name == "--first") options.first = value;
    else usage();
  }
}

}  // namespace

// Both sanitizers abort, which prints the call. A small quarantine: calls are many and short.
#define VISIBLE extern "C" __attribute__((visibility("default")))
VISIBLE const char* __asan_default_options() { return "abort_on_error=1:quarantine_size_mb=8:malloc_context_size=3"; }
VISIBLE const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

int main(int argc, char** argv) {
  parse(argc, argv);
  signal(SIGABRT, crashed);
  signal(SIGALRM, give_up);
  const std::vector<std::string> sets = instruction_sets();
  one_by_one(sets);
  if (options.calls > 1) concurrently(sets);
}
