// Cuts a worker's scratch memory into aligned arrays. Run without memory it only counts, so that the size that is
// asked for and the arrays that are taken cannot disagree.
#pragma once

namespace {

class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <class T>
  T* take(int64_t n) {
    T* result = reinterpret_cast<T*>(memory_ + used_);
    used_ += (size_t(n) * sizeof(T) + 63) / 64 * 64;
    return memory_ ? result : nullptr;
  }

  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

}  // namespace
