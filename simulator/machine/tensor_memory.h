// Tensor memory of one CTA: 128 lanes x 512 columns of 32 bits, and who owns which columns (PTX ISA, "Tensor Memory").
#pragma once

#include <array>
#include <cstdlib>
#include <memory>

#include "base.h"
#include "check/clock.h"

namespace sim {

class TensorMemory {
 public:
  static constexpr u32 lanes = 128, columns = 512;

  // Column-major, so that a warp's 32 lanes of one column are contiguous. calloc: pages that nobody touches cost
  // nothing.
  TensorMemory() : cells_(static_cast<u32*>(std::calloc(lanes * columns, sizeof(u32)))) {}
  u32& at(u32 lane, u32 column) { return cells_.get()[column * lanes + lane]; }

  // First fit at a multiple of the size, as the hardware's allocator gives powers of two; -1: not enough free columns
  // in one piece.
  int allocate(u32 count, u32 pc);
  bool release(u32 column, u32 count);  // false: not what was allocated
  bool allocated(u32 column, u32 count) const;
  bool any_allocated() const;
  u32 allocated_by() const;             // pc of some allocation that stands

  bool permit = true;                   // relinquish_alloc_permit was not executed
  u64 version = 0;                      // changes when columns become free
  u32 requested = 0;                    // columns that this CTA of a pair has asked for
  int granted = -1;                     // the column that the peer's allocation gave it
  struct {
    check::Agent agent = 0;
    check::Time time = 0;
  } completed;                          // the last tcgen05.alloc of this CTA
  static u32 column_of(u32 address) { return address & 0xFFFF; }
  static u32 lane_of(u32 address) { return address >> 16; }

 private:
  struct Free {
    void operator()(u32* p) const { std::free(p); }
  };
  struct Block {
    u32 first = 0, count = 0, pc = 0;
  };
  std::unique_ptr<u32, Free> cells_;
  std::array<Block, columns / 32> blocks_{};  // by first column / 32
  std::array<bool, columns / 32> used_{};
};

}  // namespace sim
