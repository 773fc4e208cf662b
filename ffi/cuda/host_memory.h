// Host buffers that the driver may touch while the object lives: the operands and results of a call without a GPU.
#pragma once

#include <cstdint>
#include <vector>

#include "driver.h"

namespace jax_fa4::cuda {

struct HostRange {
  std::uintptr_t address = 0, bytes = 0;
  bool writable = false;

  std::uintptr_t end() const { return address + bytes; }
};

// Calls run at the same time and may share operands, but the driver knows a place once: ranges are counted over the
// process, and a call waits for ranges that overlap its own in part.
class HostMemory {
 public:
  HostMemory(const Driver& driver, CUcontext context, std::vector<HostRange> ranges);
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  ~HostMemory();

 private:
  void release(size_t count);

  const Driver& driver_;
  CUcontext context_;
  std::vector<HostRange> ranges_;
};

}  // namespace jax_fa4::cuda
