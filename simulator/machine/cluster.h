// A cluster of CTAs: what runs together on one thread, with its asynchronous operations and its history of accesses.
#pragma once

#include <memory>
#include <vector>

#include "check/happens_before.h"
#include "machine/async.h"
#include "machine/cta.h"
#include "machine/memory.h"

namespace sim {

class Grid;

// The tcgen05 pipe of a CTA, or of a pair (kept at its even CTA).
struct TensorPipe {
  check::Agent agent = 0;
  check::Time time = 1;
  u64 products = 0;  // tcgen05.mma so far, for reports
};

class Cluster {
 public:
  Cluster(Grid& grid, u32 number);

  enum class Outcome : u8 { finished, running, waiting };  // waiting: for other clusters
  // Runs until it ends, waits for other clusters, or has executed about `budget` warp-instructions.
  Outcome run(u64 budget);

  // A shared::cluster address -> its CTA and offset; a fault if it is out of bounds, misaligned or its CTA has ended.
  SharedPlace shared(u64 address, u32 bytes, u32 align, const Origin& origin);
  // A global address -> host memory; a fault if it is out of bounds, misaligned or read-only.
  u8* global(u64 address, u64 bytes, u32 align, bool write, const Origin& origin);
  // An initialised mbarrier that `known` follows the initialisation of. `async`: used by the async proxy or from
  // another CTA.
  Mbarrier& mbarrier(u64 address, const Origin& origin, const check::Knowledge* known, bool async);
  // Plain data and an mbarrier must not share a place: a fault if these bytes are some mbarrier's.
  void refuse_mbarrier(const SharedPlace& place, u32 bytes, bool write, const Origin& origin) {
    if (place.cta->mbarriers.overlaps(place.offset, bytes)) refuse_overlapping(place, bytes, write, origin);
  }
  void warn(check::Kind kind, std::string title, std::string where, const Origin& origin, std::string why = "");
  [[noreturn]] void fault(check::Kind kind, std::string title, std::string where, const Origin& origin,
                          std::string why = "");
  Dim3 cta_id(u32 rank) const;

  // An arrival on an mbarrier of an asynchronous operation or a warp, with what it passes on.
  void arrive(Mbarrier& barrier, Cta& cta, u32 count, const check::Knowledge& passed, const Origin& origin);
  void complete_tx(Mbarrier& barrier, Cta& cta, u32 bytes, const Origin& origin);
  void expect_tx(Mbarrier& barrier, u32 bytes, const Origin& origin);
  check::Agent copy_agent(Mbarrier& barrier, Cta& cta);

  // Every event of an mbarrier that the options ask to follow.
  void trace(const Mbarrier& barrier, const Cta& cta, const std::string& event);

  Grid& grid;
  const u32 number;
  std::vector<std::unique_ptr<Cta>> ctas;
  AsyncEngine engine;
  std::unique_ptr<check::HappensBefore> history;  // null when races are not checked
  NamedBarrier barrier;                           // barrier.cluster
  std::vector<TensorPipe> pipes;                  // by CTA rank
  std::vector<u64> executed;                      // by pc
  Counters counters;
  u32 running_ctas = 0;

  void left(Warp& warp, u32 pc);                  // lanes of it have exited there
  void finish(Cta& cta, const Warp& last, u32 pc);  // its last warp has exited there
  void settle_barrier();                          // barrier.cluster: complete if no running thread is missing

  std::vector<std::string> waiting_lines();       // what every warp waits for
  [[noreturn]] void report_deadlock();

 private:
  void refuse_overlapping(const SharedPlace& place, u32 bytes, bool write, const Origin& origin);
  u64 turn(Warp& warp, u64 budget);
  bool any_waits_for_grid() const;

  std::vector<Warp*> warps_;
  std::size_t next_ = 0;
  const Allocation* last_allocation_ = nullptr;
};

}  // namespace sim
