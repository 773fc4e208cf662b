// What this machine can do: multiply-adds a second of each instruction set, and bytes read a second. Prints JSON.
//
//   limits THREADS SECONDS WHAT...   WHAT is an instruction set of the list that `limits` alone prints, or read:BYTES
//
// Built without -march: each function names its instruction set, and runs only where the processor has it.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace {

// Vectors of the compiler's own, so that one text serves every instruction set.
using Vector16 = float __attribute__((vector_size(16)));
using Vector32 = float __attribute__((vector_size(32)));
using Vector64 = float __attribute__((vector_size(64)));

#if defined(__aarch64__)
#define ANY_REGISTER "w"
constexpr int kGenericSums = 24;
#elif defined(__x86_64__)
#define ANY_REGISTER "x"
constexpr int kGenericSums = 12;
#else
#define ANY_REGISTER "m"
constexpr int kGenericSums = 8;
#endif

// Sums that start alike would be computed once by the compiler: each starts with a value of its own, hidden behind an
// empty assembler text. There are enough of them to cover the latency of two to four operations in each cycle.
#define HIDE(CONSTRAINT, value) asm volatile("" : "+" CONSTRAINT(value))
#define SUMS(NAME, TARGET, VECTOR, CONSTRAINT, COUNT, STEP)           \
  TARGET void NAME(int64_t iterations) {                              \
    VECTOR sums[COUNT], x = VECTOR{} + 0.5f, y = VECTOR{} + 0.25f;    \
    HIDE(CONSTRAINT, x);                                              \
    HIDE(CONSTRAINT, y);                                              \
    _Pragma("GCC unroll 24") for (int i = 0; i < COUNT; ++i) {        \
      sums[i] = VECTOR{} + static_cast<float>(i);                     \
      HIDE(CONSTRAINT, sums[i]);                                      \
    }                                                                 \
    for (; iterations > 0; --iterations)                              \
      _Pragma("GCC unroll 24") for (int i = 0; i < COUNT; ++i) STEP;  \
    _Pragma("GCC unroll 24") for (int i = 0; i < COUNT; ++i) HIDE(CONSTRAINT, sums[i]); \
  }
#define MULTIPLY_ADD sums[i] = sums[i] * x + y
#define IN_ASSEMBLER(INSTRUCTION, CONSTRAINT) \
  asm volatile(INSTRUCTION : "+" CONSTRAINT(sums[i]) : CONSTRAINT(x), CONSTRAINT(y))

// Four streams, so that the processor's prefetchers have something to do in several pages at once.
#define READ(NAME, TARGET, VECTOR, CONSTRAINT)                                               \
  TARGET void NAME(const char* data, int64_t bytes) {                                        \
    VECTOR sums[8] = {};                                                                     \
    const int64_t stream = bytes / 4;                                                        \
    for (int64_t at = 0; at + 128 <= stream; at += 128)                                      \
      _Pragma("GCC unroll 8") for (int i = 0; i < 4; ++i)                                    \
        _Pragma("GCC unroll 8") for (int64_t part = 0; part < 128; part += sizeof(VECTOR))   \
          sums[2 * i + part / sizeof(VECTOR) % 2] +=                                         \
              *reinterpret_cast<const VECTOR*>(data + i * stream + at + part);               \
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; ++i) HIDE(CONSTRAINT, sums[i]);           \
  }

SUMS(generic_sums, , Vector16, ANY_REGISTER, kGenericSums, MULTIPLY_ADD)
READ(generic_read, , Vector16, ANY_REGISTER)

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f")))
#define AVX512_BF16 __attribute__((target("avx512f,avx512bf16")))
#define AMX __attribute__((target("amx-tile,amx-bf16")))

SUMS(avx2_sums, AVX2, Vector32, "x", 12, MULTIPLY_ADD)
SUMS(avx512_sums, AVX512, Vector64, "v", 24, MULTIPLY_ADD)
SUMS(avx512bf16_sums, AVX512_BF16, Vector64, "v", 24, IN_ASSEMBLER("vdpbf16ps %2, %1, %0", "v"))
READ(avx2_read, AVX2, Vector32, "x")
READ(avx512_read, AVX512, Vector64, "v")

// Four products of tiles of 16 x 32 and 32 x 16 numbers, each with a sum of its own.
AMX void amx_sums(int64_t iterations) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } shape;
  for (int tile = 0; tile < 8; ++tile) shape.bytes[tile] = 64, shape.rows[tile] = 16;
  asm volatile("ldtilecfg %0" : : "m"(shape));
  asm volatile("tilezero %tmm0\n tilezero %tmm1\n tilezero %tmm2\n tilezero %tmm3");
  asm volatile("tilezero %tmm4\n tilezero %tmm5\n tilezero %tmm6\n tilezero %tmm7");
  for (; iterations > 0; --iterations)
    asm volatile(
        "tdpbf16ps %tmm6, %tmm4, %tmm0\n tdpbf16ps %tmm7, %tmm4, %tmm1\n"
        "tdpbf16ps %tmm6, %tmm5, %tmm2\n tdpbf16ps %tmm7, %tmm5, %tmm3");
  asm volatile("tilerelease");
}

// The processor has it, and the operating system lets this process have the registers.
bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#elif defined(__aarch64__)
SUMS(bfmmla_sums, , Vector16, "w", 24,
     IN_ASSEMBLER(".arch_extension bf16\n bfmmla %0.4s, %1.8h, %2.8h", "w"))

bool has_bfmmla() {
#if defined(__linux__)
  constexpr unsigned long kCapabilities2 = 26, kBf16 = 1 << 14;
  return getauxval(kCapabilities2) & kBf16;
#else
  return false;
#endif
}
#endif

struct InstructionSet {
  const char* name;
  void (*sums)(int64_t iterations);
  double operations;  // floating point operations of an iteration
};

// Those of this machine. The names are those of JAX_FA4_CPU_ISA, and bfmmla, which no kernel of ours uses.
std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> found;
#if defined(__x86_64__)
  if (has_amx()) found.push_back({"amx", amx_sums, 4 * 2.0 * 16 * 16 * 32});
  if (__builtin_cpu_supports("avx512bf16")) found.push_back({"avx512bf16", avx512bf16_sums, 24 * 64.0});
  if (__builtin_cpu_supports("avx512f")) found.push_back({"avx512", avx512_sums, 24 * 32.0});
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back({"avx2", avx2_sums, 12 * 16.0});
#elif defined(__aarch64__)
  if (has_bfmmla()) found.push_back({"bfmmla", bfmmla_sums, 24 * 32.0});
  found.push_back({"neon", generic_sums, kGenericSums * 8.0});
#endif
  found.push_back({"generic", generic_sums, kGenericSums * 8.0});
  return found;
}

void read_once(const char* data, int64_t bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return avx512_read(data, bytes);
  if (__builtin_cpu_supports("avx2")) return avx2_read(data, bytes);
#endif
  generic_read(data, bytes);
}

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Rates of batches: the best, the median, and all work over all time, which disturbances show in.
struct Rates {
  double best = 0, median = 0, mean = 0;
};

constexpr double kBatchSeconds = 5e-4;

// `batch(repetitions)` does that many times `amount`.
Rates rates(const std::function<void(int64_t)>& batch, double amount, double seconds,
            const std::function<void()>& start) {
  int64_t repetitions = 1;
  for (;; repetitions *= 2) {
    const auto begin = Clock::now();
    batch(repetitions);
    if (seconds_since(begin) >= kBatchSeconds) break;
  }
  start();
  std::vector<double> found;
  const auto begin = Clock::now();
  do {
    const auto before = Clock::now();
    batch(repetitions);
    found.push_back(amount * static_cast<double>(repetitions) / seconds_since(before));
  } while (seconds_since(begin) < seconds || found.size() < 3);
  const double mean = amount * static_cast<double>(repetitions * found.size()) / seconds_since(begin);
  std::sort(found.begin(), found.end());
  return {found.back(), found[found.size() / 2], mean};
}

// Each thread on a core of its own, as far as there are cores and the system has a way to say so.
void pin(int thread) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
  int left = thread % CPU_COUNT(&allowed);
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &allowed) || left-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    sched_setaffinity(0, sizeof one, &one);
    return;
  }
#else
  (void)thread;
#endif
}

// The sum over threads that start together. `work(start)` measures one thread and calls start() when it is ready.
Rates on_threads(int threads, const std::function<Rates(const std::function<void()>& start)>& work) {
  std::atomic<int> waiting{threads};
  std::vector<Rates> found(static_cast<size_t>(threads));
  std::vector<std::thread> running;
  for (int thread = 0; thread < threads; ++thread)
    running.emplace_back([&, thread] {
      pin(thread);
      found[static_cast<size_t>(thread)] = work([&] {
        for (--waiting; waiting.load() > 0;) std::this_thread::yield();
      });
    });
  for (std::thread& thread : running) thread.join();
  Rates sum;
  for (const Rates& one : found) sum.best += one.best, sum.median += one.median, sum.mean += one.mean;
  return sum;
}

Rates measure_sums(const InstructionSet& set, int threads, double seconds) {
  const auto batch = [&](int64_t repetitions) { set.sums(1000 * repetitions); };
  return on_threads(threads, [&](const auto& start) { return rates(batch, 1000 * set.operations, seconds, start); });
}

// Each thread reads its part of the bytes, again and again; who wrote it first has it near.
Rates measure_read(int64_t bytes, int threads, double seconds) {
  const int64_t part = std::max<int64_t>(bytes / threads / 512, 1) * 512;
  return on_threads(threads, [&](const auto& start) {
    const auto size = static_cast<size_t>(part);
    char* data = static_cast<char*>(::operator new(size, std::align_val_t(4096)));
    std::fill(data, data + size, 0);
    const auto batch = [&](int64_t repetitions) {
      for (; repetitions > 0; --repetitions) read_once(data, part);
    };
    const Rates found = rates(batch, static_cast<double>(part), seconds, start);
    ::operator delete(data, std::align_val_t(4096));
    return found;
  });
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<InstructionSet> sets = instruction_sets();
  if (count < 4) {
    for (const InstructionSet& set : sets) std::printf("%s\n", set.name);
    return 0;
  }
  const int threads = std::max(std::atoi(arguments[1]), 1);
  const double seconds = std::atof(arguments[2]);
  std::printf("{");
  for (int index = 3; index < count; ++index) {
    const std::string what = arguments[index];
    Rates found;
    if (what.starts_with("read:")) {
      found = measure_read(std::atoll(what.c_str() + 5), threads, seconds);
    } else {
      const auto set = std::find_if(sets.begin(), sets.end(), [&](const auto& one) { return what == one.name; });
      if (set == sets.end()) return std::fprintf(stderr, "this machine has no %s\n", what.c_str()), 1;
      found = measure_sums(*set, threads, seconds);
    }
    std::printf("%s\"%s\": {\"best\": %.6g, \"median\": %.6g, \"mean\": %.6g}", index > 3 ? ", " : "", what.c_str(),
                found.best, found.median, found.mean);
  }
  std::printf("}\n");
}
