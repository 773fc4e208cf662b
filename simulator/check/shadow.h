// The last accesses to each place of a memory, and the rules by which a new one conflicts with them.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "check/clock.h"

namespace sim::check {

// An access as a place remembers it. `site` packs the statement, the bytes touched of the cell's four, and two flags:
// a cell stays at half a cache line.
struct Entry {
  static constexpr u32 pc_bits = 0xFFFFFF, bytes_shift = 24, bytes_bits = 0xFu << bytes_shift;
  static constexpr u32 async_bit = 1u << 28, atomic_bit = 1u << 29;
  Time time = 0;  // 0: no access
  Mask lanes = 0;
  u32 site = 0;
  u32 cluster = 0;
  u16 agent = 0;
  bool write = false;

  u32 bytes() const { return (site & bytes_bits) >> bytes_shift; }
  u32 pc() const { return site & pc_bits; }
  bool async() const { return site & async_bit; }
  bool atomic() const { return site & atomic_bit; }
  void set_bytes(u32 bytes) { site = (site & ~bytes_bits) | (bytes << bytes_shift); }
  bool same_epoch(const Entry& other) const {
    return time == other.time && agent == other.agent && cluster == other.cluster && atomic() == other.atomic();
  }
};

// The access about to happen: what will be remembered of it, and what its actor knows.
struct Access : Entry {
  const Knowledge* known = nullptr;
};

bool covered_by_foreign(Clock Knowledge::*clock, const Entry& earlier, const Access& access);

inline bool covered(Clock Knowledge::*clock, const Entry& earlier, const Access& access) {
  if (earlier.cluster == access.cluster && (access.known->*clock).covers(earlier.agent, earlier.lanes, earlier.time))
    return true;
  return access.known->foreign && covered_by_foreign(clock, earlier, access);
}

inline bool same_agent(const Entry& earlier, const Access& access) {
  return earlier.agent == access.agent && earlier.cluster == access.cluster;
}

// What a generic-proxy write left is visible to the async proxy behind a proxy fence only.
inline Clock Knowledge::*clock_needed(const Entry& earlier, const Access& access) {
  return access.async() && earlier.write && !earlier.async() ? &Knowledge::fenced : &Knowledge::generic;
}

inline bool conflicts(const Entry& earlier, const Access& access) {
  return (earlier.bytes() & access.bytes()) && (earlier.write || access.write) &&
         !(earlier.atomic() && access.atomic()) && !same_agent(earlier, access) &&
         !covered(clock_needed(earlier, access), earlier, access);
}

// Whoever is ordered after the access is ordered after the earlier one too.
inline bool follows(const Entry& earlier, const Access& access) {
  return (same_agent(earlier, access) && (earlier.lanes & ~access.lanes) == 0) ||
         covered(clock_needed(earlier, access), earlier, access);
}

// Removes from an earlier access the bytes for which the new one stands from now on.
inline void trim(Entry& earlier, const Access& access) {
  if (!(earlier.bytes() & access.bytes()) || (access.atomic() && !earlier.atomic())) return;
  if (follows(earlier, access)) earlier.set_bytes(earlier.bytes() & ~access.bytes());
}

// One write and one read stand in the cell itself; what is needed beyond that (several readers that do not know of each
// other, halves of a cell written by different agents) stands in a side table.
struct Cell {
  enum Slot : u8 { kWrite, kRead };
  Time time[2];
  Mask lanes[2];
  u32 site[2];
  u16 agent[2];
  u32 state;  // low four bits: initialised bytes; the rest: index of the extra entries, 0 is none

  u32 extras() const { return state >> 4; }
  Entry entry(Slot slot, u32 cluster) const {
    return {time[slot], lanes[slot], site[slot], cluster, agent[slot], slot == kWrite};
  }
  void put(Slot slot, const Entry& entry) {
    time[slot] = entry.time;
    lanes[slot] = entry.lanes;
    site[slot] = entry.site;
    agent[slot] = entry.agent;
  }
  void clear(Slot slot) { time[slot] = lanes[slot] = site[slot] = agent[slot] = 0; }
  // The agent has done the same at the same time.
  bool repeats(Slot slot, const Access& access) const {
    return time[slot] == access.time && agent[slot] == access.agent && (access.lanes & ~lanes[slot]) == 0 &&
           (access.bytes() & ~(site[slot] >> Entry::bytes_shift)) == 0 &&
           (~access.site & site[slot] & Entry::atomic_bit) == 0;
  }
};
static_assert(sizeof(Cell) == 32);

// What an access made of a whole cell: others with the same history come to the same without asking the rules again.
struct Repetition {
  bool known = false;
  Cell before, after;
};

// The history of one CTA's shared or tensor memory.
class Shadow {
 public:
  Shadow(u32 cluster, u32 cells);

  // False, with nothing recorded, if the access conflicts with an earlier one.
  bool read(u32 index, const Access& access);
  bool write(u32 index, const Access& access);
  Entry conflict(u32 index, const Access& access) const;  // that earlier one
  // For the cells of one access: `remember` follows a successful one, given the cell as it was.
  bool repeat(u32 index, const Repetition& repetition) {
    if (!repetition.known || std::memcmp(&cells_[index], &repetition.before, sizeof(Cell)) != 0) return false;
    cells_[index] = repetition.after;
    return true;
  }
  void remember(u32 index, const Cell& before, Repetition& repetition) const {
    if (!before.extras() && !cells_[index].extras()) repetition = {true, before, cells_[index]};
  }
  const Cell& cell(u32 index) const { return cells_[index]; }
  u32 uninitialised(u32 index, u32 bytes) const { return bytes & ~cells_[index].state; }
  void initialise(u32 index, u32 bytes) { cells_[index].state |= bytes; }
  void disarm(u32 index);  // forgets accesses, stays initialised
  void forget(u32 index);  // as new
  u32 cells() const { return count_; }

 private:
  void record(Cell& cell, Cell::Slot slot, const Access& access);
  void set_aside(Cell& cell, const Entry& entry);
  bool follow_extras(Cell& cell, const Access& access);
  void release_extras(Cell& cell);

  struct Free {
    void operator()(void* memory) const;
  };
  u32 cluster_, count_;
  std::unique_ptr<void, Free> memory_;  // from calloc: pages that are never touched cost nothing
  Cell* cells_;
  std::vector<std::vector<Entry>> extras_{{}};
  std::vector<u32> unused_extras_;
};

inline void Shadow::record(Cell& cell, Cell::Slot slot, const Access& access) {
  if (cell.time[slot]) {
    Entry old = cell.entry(slot, cluster_);
    if (old.same_epoch(access)) {
      cell.lanes[slot] |= access.lanes;
      cell.site[slot] = access.site | (old.site & Entry::bytes_bits);
      return;
    }
    trim(old, access);
    if (old.bytes()) set_aside(cell, old);
  }
  cell.put(slot, access);
}

inline bool Shadow::read(u32 index, const Access& access) {
  Cell& cell = cells_[index];
  if (cell.repeats(Cell::kRead, access)) return true;
  if (conflicts(cell.entry(Cell::kWrite, cluster_), access)) return false;
  if (cell.extras() && !follow_extras(cell, access)) return false;
  record(cell, Cell::kRead, access);
  return true;
}

inline bool Shadow::write(u32 index, const Access& access) {
  Cell& cell = cells_[index];
  if (!cell.time[Cell::kRead] && !cell.extras() && cell.repeats(Cell::kWrite, access)) return true;
  if (conflicts(cell.entry(Cell::kWrite, cluster_), access)) return false;
  if (cell.time[Cell::kRead]) {
    Entry read = cell.entry(Cell::kRead, cluster_);
    if (conflicts(read, access)) return false;
    if (cell.extras() && !follow_extras(cell, access)) return false;
    trim(read, access);
    if (read.bytes())
      cell.put(Cell::kRead, read);
    else
      cell.clear(Cell::kRead);
  } else if (cell.extras() && !follow_extras(cell, access)) {
    return false;
  }
  record(cell, Cell::kWrite, access);
  cell.state |= access.bytes();
  return true;
}

}  // namespace sim::check
