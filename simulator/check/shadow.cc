// The rare cases of a memory's history: more accesses than a cell holds, and conflicts.
#include "check/shadow.h"

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <new>

namespace sim::check {

// An access of the own cluster may be known by way of another one.
bool covered_by_foreign(Clock Knowledge::*clock, const Entry& earlier, const Access& access) {
  const Knowledge* known = access.known->of_cluster(earlier.cluster);
  return known && (known->*clock).covers(earlier.agent, earlier.lanes, earlier.time);
}

void Shadow::Free::operator()(void* memory) const { std::free(memory); }

Shadow::Shadow(u32 cluster, u32 cells) : cluster_(cluster), count_(cells) {
  std::size_t space = (std::size_t{cells} + 1) * sizeof(Cell);
  void* start = std::calloc(space, 1);
  if (!start) throw std::bad_alloc();
  memory_.reset(start);
  std::align(sizeof(Cell), cells * sizeof(Cell), start, space);  // a cell never straddles two cache lines
  cells_ = static_cast<Cell*>(start);
}

void Shadow::set_aside(Cell& cell, const Entry& entry) {
  if (!cell.extras()) {
    u32 index;
    if (unused_extras_.empty()) {
      index = static_cast<u32>(extras_.size());
      extras_.emplace_back();
    } else {
      index = unused_extras_.back();
      unused_extras_.pop_back();
    }
    cell.state |= index << 4;
  }
  extras_[cell.extras()].push_back(entry);
}

void Shadow::release_extras(Cell& cell) {
  if (!cell.extras()) return;
  extras_[cell.extras()].clear();
  unused_extras_.push_back(cell.extras());
  cell.state &= 0xF;
}

// Reads do not stand for earlier writes, so these are trimmed by writes only.
bool Shadow::follow_extras(Cell& cell, const Access& access) {
  std::vector<Entry>& entries = extras_[cell.extras()];
  if (std::any_of(entries.begin(), entries.end(), [&](const Entry& entry) { return conflicts(entry, access); }))
    return false;
  for (Entry& entry : entries)
    if (access.write || !entry.write) trim(entry, access);
  std::erase_if(entries, [](const Entry& entry) { return entry.bytes() == 0; });
  if (entries.empty()) release_extras(cell);
  return true;
}

Entry Shadow::conflict(u32 index, const Access& access) const {
  const Cell& cell = cells_[index];
  for (const Cell::Slot slot : {Cell::kWrite, Cell::kRead})
    if (const Entry entry = cell.entry(slot, cluster_); conflicts(entry, access)) return entry;
  const std::vector<Entry>& entries = extras_[cell.extras()];
  const auto found =
      std::find_if(entries.begin(), entries.end(), [&](const Entry& entry) { return conflicts(entry, access); });
  assert(found != entries.end());
  return *found;
}

void Shadow::disarm(u32 index) {
  Cell& cell = cells_[index];
  release_extras(cell);
  cell.clear(Cell::kWrite);
  cell.clear(Cell::kRead);
}

void Shadow::forget(u32 index) {
  disarm(index);
  cells_[index].state = 0;
}

}  // namespace sim::check
