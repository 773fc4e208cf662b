// Races in shared, tensor and global memory: each access is checked against the last ones to the same place.
//
// An access is ordered after an earlier one if what its actor knows covers it. If the earlier is a generic-proxy WRITE
// and this one is of the async proxy (tensor copies, bulk copies, tcgen05.mma / wgmma operands in shared memory), it
// must be covered by Knowledge::fenced, else by Knowledge::generic. (A generic READ followed by an async-proxy write
// needs no proxy fence.) Accesses of one agent are ordered among themselves. Tensor memory knows no proxies. A place
// that was reported is disarmed (its history is forgotten, it stays initialised).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "check/clock.h"
#include "check/report.h"

namespace sim::check {

enum class AgentKind : u8 {
  warp,
  tensor_copy,
  bulk_store,
  wgmma,
  tcgen05,
  tensor_load,
  tensor_store,
  cp_async,
  work_steal
};

// One access about to happen.
struct Actor {
  Agent agent;
  Time time;
  Mask lanes;                // of a warp's access: the lanes that touch this place; of an asynchronous one: all_lanes
  bool async_proxy;          // in shared and global memory
  u32 pc;                    // of the instruction that issued it
  const Knowledge* known;    // at the moment of issue
  bool atomic = false;       // two atomic accesses never race with each other
};

// Global memory is shared by clusters that run on several threads; its history is one object a launch, locked in
// stripes.
class GlobalHistory;
std::shared_ptr<GlobalHistory> make_global_history();

// One per cluster; used by one thread at a time.
class HappensBefore {
 public:
  HappensBefore(u32 cluster, u32 ctas, u32 shared_bytes, u32 shared_base, std::shared_ptr<GlobalHistory> global,
                Reports& reports, std::vector<Dim3> cta_ids);
  ~HappensBefore();

  // A new agent. `index` is its warp; of a tensor copy or of work stealing the mbarrier's address; of tcgen05 anything.
  // For reports.
  Agent agent(AgentKind kind, u32 cta, u32 index);

  // Shared memory: offset as a shared address without the CTA rank, within [shared_base, shared_base + shared_bytes).
  // 4-byte cells that know which of their bytes were touched.
  void read_shared(const Actor& actor, u32 cta, u32 offset, u32 bytes);  // also reports uninitialised bytes (once a pc)
  void write_shared(const Actor& actor, u32 cta, u32 offset, u32 bytes);
  // The same for pieces of `bytes` bytes at several offsets, such as the chunks of a matrix operand: quicker than one
  // by one.
  void read_shared(const Actor& actor, u32 cta, std::span<const u32> offsets, u32 bytes);
  void write_shared(const Actor& actor, u32 cta, std::span<const u32> offsets, u32 bytes);
  // Tensor memory: cells of 16 lanes x 1 column; half is lane / 16 (0..7).
  void read_tensor(const Actor& actor, u32 cta, u32 half, u32 column, u32 columns);
  void write_tensor(const Actor& actor, u32 cta, u32 half, u32 column, u32 columns);
  void forget_tensor(u32 cta, u32 column, u32 columns);  // freed or freshly allocated: uninitialised, no history
  // Global memory, by address; across clusters.
  void read_global(const Actor& actor, u64 address, u64 bytes);
  void write_global(const Actor& actor, u64 address, u64 bytes);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sim::check
