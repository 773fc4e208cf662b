// A warp: registers of 32 lanes, and the fragments into which divergence splits it (independent thread scheduling).
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "check/clock.h"
#include "check/happens_before.h"
#include "machine/bulk_groups.h"
#include "machine/memory.h"
#include "machine/program.h"

namespace sim {

class Cta;
class Cluster;

// Why lanes stand still. They are looked at again once *watched is no longer `seen`.
struct Waiting {
  enum class On : u8 {
    nothing,
    mbarrier,
    named_barrier,
    cluster_barrier,
    lanes,
    tensor_memory,
    register_pool,
    bulk_group,
    wgmma_group,
    grid
  };
  On on = On::nothing;
  const u64* watched = nullptr;
  u64 seen = 0;
  u32 object = 0;  // mbarrier: its shared::cluster address; named barrier: its number; others: what the report prints
  u32 detail = 0;  // mbarrier: the parity asked for; bulk group: how many may stay
};

// Lanes that execute together.
struct Fragment {
  u32 pc = 0;
  Mask lanes = 0;
  Waiting waiting;
  u64 ticket = 0;  // an arrival made by an instruction that is executed again after waiting (bar.sync): generation + 1
};

class Warp {
 public:
  Warp(Cta& cta, u32 index, u32 threads);

  // Registers. The pointers are to 32 lanes; a body writes the lanes of `active` only.
  template <class T> const T* in(const Operand& operand) const {
    return reinterpret_cast<const T*>(bases_[operand.slot >> 31] + (operand.slot & ~Operand::in_constants));
  }
  template <class T> T* out(const Operand& operand) { return reinterpret_cast<T*>(registers_ + operand.slot); }
  Mask predicate(const Operand& operand) const {
    Mask value = *in<Mask>(operand);
    return operand.negate ? ~value : value;
  }
  void write_predicate(const Operand& operand, Mask value) {
    Mask& register_ = *out<Mask>(operand);
    register_ = (register_ & ~active) | (value & active);
  }
  // An address operand of 32 or 64 bits plus its offset.
  u64 address(const Operand& operand, int lane) const {
    u64 base = operand.bytes == 8 ? in<u64>(operand)[lane] : in<u32>(operand)[lane];
    return base + static_cast<u64>(operand.offset);
  }
  // Any integer operand, zero-extended.
  u64 value(const Operand& operand, int lane) const;
  int first_lane() const { return __builtin_ctz(active); }

  // Waits until every lane of `wanted` that still runs stands at this instruction (PTX: .sync with a member mask,
  // .aligned).
  bool gathered(Mask wanted);
  Step wait(Waiting::On on, const u64& watched, u32 object = 0, u32 detail = 0);
  Step wait_for_lanes() { return wait(Waiting::On::lanes, shape_version_, active); }
  // The fragment that executes now: its ticket survives re-execution.
  Fragment& fragment() { return fragments_[current_]; }

  // Accesses of the generic proxy by these lanes at this moment, for the checks.
  check::Actor actor(Mask lanes, bool atomic = false) const {
    return {view.agent(), view.now(), lanes, false, pc(), &view.known_to(lanes), atomic};
  }
  u32 pc() const { return fragments_[current_].pc; }

  // Executes until the warp blocks, ends, or `budget` warp-instructions are done; returns how many were.
  u64 run(u64 budget);
  bool ready() const;  // some fragment could go on
  bool exited() const { return live_ == 0; }
  Mask live() const { return live_; }
  const std::vector<Fragment>& fragments() const { return fragments_; }
  std::string name() const;  // "warp 3"
  Origin origin(const char* what = "") const;

  Cta& cta;
  Cluster& cluster;
  const u32 index;       // in the CTA
  const u32 threads;     // lanes that exist
  const Mask existing;
  Mask active = 0;       // lanes that execute the current instruction
  check::WarpView view;
  BulkGroups bulk;       // bulk stores issued by this warp's lanes
  BulkGroups copies;     // their cp.async
  u64 executed = 0;      // warp-instructions
  u32 registers_per_thread = 0;
  bool registers_counted = false;    // a setmaxnreg has said how many
  Mask cluster_arrived = 0;  // lanes that have arrived at the current barrier.cluster
  u64 cluster_ticket = 0;    // generation + 1 of the last arrival

  // Asynchronous instructions whose results stand in registers only later: tcgen05.ld, wgmma.
  struct Outstanding {
    u32 pc;
    check::Time time;
  };
  std::vector<Outstanding> loads;      // tcgen05.ld not yet known complete
  std::vector<Outstanding> products;   // wgmma.mma_async not yet awaited
  check::Agent load_agent = 0, store_agent = 0, product_agent = 0,
               copy_agent = 0;  // 0: none yet (agent 0 is the first warp)
  check::Time load_time = 1, store_time = 1, product_time = 1, copy_time = 1;
  std::vector<check::Time> product_group_time;
  bool products_fenced = false;        // a wgmma.fence stands since registers were touched

  // Memory fences split from the access they order (fence.acq_rel + relaxed accesses).
  std::optional<check::Knowledge> fenced_release;
  std::optional<check::Knowledge> fenced_acquire;
  // The last acquire-like load: the same load at an unchanged grid version is a poll that can only see the same value.
  struct Poll {
    u32 pc = ~0u;
    u64 address = 0, version = ~u64{0};
  } poll;

 private:
  struct Free {
    void operator()(u8* p) const { std::free(p); }
  };
  void meet();                       // merges fragments that stand at the same place
  bool select();                     // false: no fragment can go on
  void jump(const Inst& inst);
  void leave(Mask lanes);
  void settle(const Inst& inst);     // results of asynchronous instructions are touched
  void trace(const Inst& inst);
  void fill_special_registers();

  std::unique_ptr<u8, Free> registers_storage_;
  u8* registers_ = nullptr;          // aligned for vector instructions
  const u8* bases_[2];
  std::vector<Fragment> fragments_;
  u32 current_ = 0;
  bool traced_ = false;
  u32 stop_pc_ = ~0u;                // where another fragment stands: reaching it merges
  Mask live_;
  u64 shape_version_ = 0;            // changes when lanes meet or leave
};

}  // namespace sim
