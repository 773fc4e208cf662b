// Aligned memory for the handlers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace jax_fa4::cpu {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

// Undefined content, aligned to a cache line; null if memory has run out. Large workspaces ask for large pages: the
// first touch of small ones costs as much as some of the arithmetic that they are for.
inline Memory allocate(size_t bytes) {
  Memory memory(std::aligned_alloc(64, bytes / 64 * 64 + 64));
#if defined(MADV_HUGEPAGE) && !defined(__SANITIZE_ADDRESS__)
  constexpr size_t page = size_t{1} << 21;
  if (memory && bytes >= 4 * page) {
    const auto address = reinterpret_cast<uintptr_t>(memory.get()), first = (address + page - 1) / page * page;
    madvise(reinterpret_cast<void*>(first), (address + bytes - first) / page * page, MADV_HUGEPAGE);
  }
#endif
  return memory;
}

// A task's scratch memory. Small ones live with the thread, so that small calls do not allocate.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    if (bytes > kept) {
      own_ = allocate(bytes);
      memory_ = own_.get();
      return;
    }
    thread_local Memory of_thread;
    if (!of_thread) of_thread = allocate(kept);
    memory_ = of_thread.get();
  }
  void* get() const { return memory_; }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kept = 0;  // of its own, so that every overrun is seen
#else
  static constexpr size_t kept = size_t{1} << 20;
#endif
  Memory own_;
  void* memory_ = nullptr;
};

}  // namespace jax_fa4::cpu
