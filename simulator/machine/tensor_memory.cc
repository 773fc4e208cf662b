// Tensor memory: allocation of columns.
#include "machine/tensor_memory.h"

#include <algorithm>

namespace sim {

int TensorMemory::allocate(u32 count, u32 pc) {
  u32 units = count / 32;
  for (u32 first = 0; first + units <= used_.size(); first += units) {
    auto begin = used_.begin() + first;
    if (std::any_of(begin, begin + units, [](bool used) { return used; })) continue;
    std::fill(begin, begin + units, true);
    blocks_[first] = {first * 32, count, pc};
    return static_cast<int>(first * 32);
  }
  return -1;
}

bool TensorMemory::release(u32 column, u32 count) {
  if (column % 32 != 0 || column >= columns) return false;
  Block& block = blocks_[column / 32];
  if (block.count != count || !used_[column / 32]) return false;
  std::fill_n(used_.begin() + column / 32, count / 32, false);
  block = {};
  ++version;
  return true;
}

bool TensorMemory::allocated(u32 column, u32 count) const {
  if (count == 0 || column + count > columns) return false;
  for (u32 unit = column / 32; unit <= (column + count - 1) / 32; ++unit)
    if (!used_[unit]) return false;
  return true;
}

bool TensorMemory::any_allocated() const { return std::ranges::any_of(used_, [](bool used) { return used; }); }

u32 TensorMemory::allocated_by() const {
  for (const Block& block : blocks_)
    if (block.count) return block.pc;
  return ~0u;
}

}  // namespace sim
