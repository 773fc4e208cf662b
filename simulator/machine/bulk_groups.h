// Bulk groups of one warp (cp.async.bulk.commit_group / wait_group): PTX ISA, "Data Movement: bulk async-groups".
#pragma once

#include <array>
#include <deque>
#include <vector>

#include "check/clock.h"

namespace sim {

// A group belongs to the lane that issued it. An operation first finishes reading its source, then writing its
// destination.
struct BulkGroups {
  struct Operation {
    u32 pc;
    bool read = false, written = false;
  };
  struct Group {
    std::vector<u64> operations;  // numbers, see first_number
    check::Time time = 0;         // of the warp's bulk-store agent, for these accesses
    bool read_awaited = false;
  };
  struct Lane {
    std::vector<u64> open;        // issued, not yet committed
    std::deque<Group> groups;     // oldest first; awaited ones are removed
    check::Time written = 0;      // of removed groups whose writes nobody has awaited yet
  };

  u64 issue(int lane, u32 pc);                    // -> number of the operation
  void commit(Mask lanes, check::Time time);
  void finished_reading(u64 number);
  void finished_writing(u64 number);
  // True if at most `allowed` newest groups of each of these lanes are unfinished; then forgets (or marks as read) the
  // others and sets `known` to the newest time they end with.
  bool await(Mask lanes, u32 allowed, bool read_only, check::Time& known);
  // pc of an operation whose source may still be read when its CTA's memory goes away, or ~0.
  u32 unawaited() const;

  u64 version = 0;                                // changes with every completion
  check::Agent reader = 0, writer = 0;            // reads of the source, writes of the destination
  check::Time time = 1;

 private:
  std::vector<Operation> operations_;
  std::array<Lane, warp_size> lanes_;
};

}  // namespace sim
