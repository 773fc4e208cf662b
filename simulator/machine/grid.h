// A launch and its result: the one door through which the driver and Python run things.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "check/report.h"
#include "machine/program.h"

namespace sim {

// What a device can do, as far as a launch depends on it.
struct DeviceLimits {
  u32 multiprocessors = 148;
  u32 shared_bytes = 232448;      // a block's, opted in
  u32 reserved_shared = 1024;     // at the window's start
  u32 registers = 65536;          // a multiprocessor's
  u32 max_cluster = 8;
};

struct Launch {
  std::shared_ptr<const Program> program;
  Dim3 grid, block, cluster;
  u32 dynamic_shared = 0;
  std::vector<u8> parameters;     // laid out as Program::parameters says
  bool dependent = false;         // programmatic stream serialization was asked for
  DeviceLimits device;
};

// Memory that a kernel may touch: [address, address + bytes). Addresses are host addresses.
struct Allocation {
  u64 address, bytes;
  bool writable = true;
};

enum class Schedule : u8 { eager, random, lazy };

struct Options {
  Schedule schedule = Schedule::eager;
  u64 seed = 0;
  u32 threads = 1;                // clusters run in parallel
  bool checks = true;             // races and uninitialised memory; all other checks are always on
  u64 max_instructions = 50'000'000;  // of one warp, then it is called a livelock
  u32 max_reports = 20;
  // That a thread runs side by side from the start; more are started when those wait for others.
  u32 resident_clusters = 1;
  // Mutation: pcs that are executed as if they were not there.
  std::vector<u32> skip;
  // Trace: warp to follow (cluster, cta rank, warp), and where the lines go.
  i64 trace_cluster = -1, trace_cta = 0, trace_warp = 0;
  i64 trace_mbarrier = -1;        // or: every event of the mbarrier at this shared offset
};

// Additive over tiles and launches.
struct Counters {
  u64 warp_instructions = 0, issue_slots = 0;
  u64 mufu_operations = 0, fma_operations = 0, alu_operations = 0;  // lanes
  u64 tensor_macs = 0, tensor_instructions = 0;
  u64 tensor_cycles = 0;              // at the published rate of dense 16-bit MMA
  u64 shared_read_bytes = 0, shared_write_bytes = 0;
  u64 shared_wavefronts = 0, shared_wavefronts_ideal = 0;  // bank conflicts: the excess
  u64 tensor_memory_read_bytes = 0, tensor_memory_write_bytes = 0;
  u64 global_read_bytes = 0, global_write_bytes = 0, copy_bytes = 0;
  Counters& operator+=(const Counters& other);
};

struct Result {
  std::vector<check::Report> reports;
  std::vector<std::string> rendered;   // the same, as text
  bool failed = false;                 // a fatal report: the launch stopped
  std::vector<u64> executed;           // warp-instructions by pc
  Counters counters;
  std::vector<std::string> trace;
};

// Throws Error if the launch can not be made. Re-entrant.
Result run(const Launch& launch, const std::vector<Allocation>& memory, const Options& options);

}  // namespace sim
