// One launch while it runs: what its clusters share.
#pragma once

#include <atomic>
#include <mutex>
#include <unordered_map>

#include "machine/cluster.h"
#include "machine/grid.h"

namespace sim {

class Grid {
 public:
  Grid(const Launch& launch, const std::vector<Allocation>& memory, const Options& options);
  Result run();

  // Takes the next cluster that has not started (also what clusterlaunchcontrol.try_cancel does); -1: there is none.
  i64 take_cluster();
  Dim3 first_cta(u32 cluster) const;

  // Synchronisation through global memory: what releases at this address passed on.
  void publish(u64 address, u32 cluster, const check::Knowledge& knowledge);
  // Joins it into `into` as cluster `cluster` sees it; false if nothing was published there.
  bool observe(u64 address, u32 cluster, check::Knowledge& into);
  // A strong access to global memory happened: polling clusters look again.
  void touch() { std::atomic_ref(version).fetch_add(1, std::memory_order_release); }

  const Launch launch;
  const Options options;
  Program program;                        // with mutations applied
  GlobalMemory memory;
  check::Reports reports;
  std::shared_ptr<check::GlobalHistory> global_history;
  const u32 cluster_ctas;
  const u32 clusters;
  u64 version = 0;                        // of strong accesses to global memory
  std::mutex atomics;                     // read-modify-write of global memory

  void add_trace(std::string line);
  u32 dynamic_shared_offset() const;      // in the window of each CTA
  u32 shared_end() const;
  std::string line_of(u32 pc) const;      // "ptx:2381"

 private:
  void work();
  void collect(Cluster& cluster);
  bool everyone_waits(u64 seen);
  void report_grid_deadlock(const std::vector<std::unique_ptr<Cluster>>& active);

  std::atomic<u32> next_cluster_{0};
  std::mutex idle_mutex_;
  u64 idle_version_ = 0;  // what the waiting workers have looked at
  u32 idle_ = 0;          // workers that have and wait
  u32 running_ = 1;       // that have not ended
  std::mutex mutex_;
  std::unordered_map<u64, std::unordered_map<u32, check::Knowledge>> published_;
  Result result_;
};

// Adds what the instructions executed cost by their unit (isa/row.h), 32 lanes each.
void count_units(const Program& program, const std::vector<u64>& executed, Counters& counters);

}  // namespace sim
