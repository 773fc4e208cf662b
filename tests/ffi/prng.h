// A small random generator (splitmix64, Steele, Lea and Flood 2014): each call of the fuzzer starts its own.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <iterator>

class Prng {
 public:
  explicit Prng(uint64_t state) : state_(state) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  int64_t below(int64_t bound) { return int64_t(next() % uint64_t(bound)); }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  bool chance(int percent) { return below(100) < percent; }

  template <class T>
  T pick(std::initializer_list<T> from) {
    return from.begin()[below(int64_t(from.size()))];
  }
  template <class Container>
  auto& any_of(Container& from) {
    return from[size_t(below(int64_t(std::size(from))))];
  }

 private:
  uint64_t state_;
};
