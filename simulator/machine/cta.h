// A CTA: its shared memory, barriers, tensor memory, register pool and warps.
#pragma once

#include <array>
#include <cstdlib>
#include <memory>
#include <vector>

#include "machine/mbarrier.h"
#include "machine/named_barrier.h"
#include "machine/tensor_memory.h"
#include "machine/warp.h"

namespace sim {

class Cluster;

class Cta {
 public:
  Cta(Cluster& cluster, u32 rank, Dim3 id);

  // Shared memory by its offset in the window (below `reserved`: the system's, not for kernels).
  u8* shared(u32 offset) { return shared_.get() + offset; }
  u32 shared_address(u32 offset) const { return rank << 24 | offset; }

  // Registers of the multiprocessor that no warp holds (setmaxnreg).
  struct RegisterPool {
    u32 free = 0;
    u64 version = 0;
  };

  Cluster& cluster;
  const u32 rank;
  const Dim3 id;
  const u32 shared_end;       // window size: reserved + static + dynamic
  MbarrierTable mbarriers;
  std::array<NamedBarrier, 16> named;
  TensorMemory tensor;
  RegisterPool registers;
  std::vector<std::unique_ptr<Warp>> warps;
  u32 running_warps = 0;

 private:
  struct Free {
    void operator()(u8* p) const { std::free(p); }
  };
  std::unique_ptr<u8, Free> shared_;
};

}  // namespace sim
