// The instruction table: all families, joined once.
#include "isa/families.h"

namespace sim {

std::span<const Row> table() {
  static const std::vector<Row> rows = [] {
    std::vector<Row> all;
    for (auto family :
         {integer_rows,       logic_rows,    compare_rows,  move_rows,   float_rows,       approximate_rows,
          convert_rows,       control_rows,  warp_rows,     memory_rows, atomic_rows,      fence_rows,
          barrier_rows,       mbarrier_rows, cp_async_rows, copy_rows,   tensor_copy_rows, tcgen05_rows,
          tensor_memory_rows, wgmma_rows,    grid_rows}) {
      std::span<const Row> rows = family();
      all.insert(all.end(), rows.begin(), rows.end());
    }
    return all;
  }();
  return rows;
}

}  // namespace sim
