// Where accesses go and who makes them: bounds, alignment, and the faults they cause.
#pragma once

#include <vector>

#include "check/happens_before.h"
#include "machine/grid.h"

namespace sim {

class Cta;
class Warp;

// Thrown after a fatal report: the launch stops.
struct Stopped {};

// Who is responsible for an access, as reports name it. Asynchronous operations carry their issuer's.
struct Origin {
  static constexpr u32 unknown_warp = ~0u;
  Dim3 cta;
  u32 warp = 0;
  Mask lanes = 0;
  u32 pc = 0;
  const char* what = "";  // "tensor copy", "" for the warp itself
  check::Site site() const;
};

struct SharedPlace {
  Cta* cta;
  u32 offset;
};

// The allocations that a launch may touch.
class GlobalMemory {
 public:
  explicit GlobalMemory(std::vector<Allocation> allocations);
  // The allocation that holds all of the range, or null.
  const Allocation* find(u64 address, u64 bytes) const;
  std::string nearest(u64 address) const;  // in words, for reports

 private:
  std::vector<Allocation> sorted_;
};

std::string hex(u64 value);

}  // namespace sim
