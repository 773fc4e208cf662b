// Cuts a worker's scratch memory into aligned arrays. Run without memory it only counts, so that the size that is
// asked for and the arrays that are taken cannot disagree.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace {

// Under AddressSanitizer arrays are apart, and what lies between them may not be touched.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t array_gap = 64;
JAX_FA4_INLINE void forbid(char* memory, size_t bytes) { ASAN_POISON_MEMORY_REGION(memory, bytes); }
JAX_FA4_INLINE void allow(char* memory, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(memory, bytes); }
#else
constexpr size_t array_gap = 0;
JAX_FA4_INLINE void forbid(char*, size_t) {}
JAX_FA4_INLINE void allow(char*, size_t) {}
#endif

class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <class T>
  T* take(int64_t n) {
    char* start = memory_ + used_;
    const size_t bytes = size_t(n) * sizeof(T), room = (bytes + 63) / 64 * 64 + array_gap;
    used_ += room;
    if (!memory_) return nullptr;
    allow(start, bytes);
    forbid(start + bytes, array_gap ? room - bytes : 0);
    return reinterpret_cast<T*>(start);
  }

  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

}  // namespace
