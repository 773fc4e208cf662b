// The families of instructions; table.cc joins them.
#pragma once

#include "isa/row.h"

namespace sim {

std::span<const Row> integer_rows();
std::span<const Row> logic_rows();
std::span<const Row> compare_rows();
std::span<const Row> move_rows();
std::span<const Row> float_rows();
std::span<const Row> approximate_rows();
std::span<const Row> convert_rows();
std::span<const Row> control_rows();
std::span<const Row> warp_rows();
std::span<const Row> memory_rows();
std::span<const Row> atomic_rows();
std::span<const Row> fence_rows();
std::span<const Row> barrier_rows();
std::span<const Row> mbarrier_rows();
std::span<const Row> cp_async_rows();
std::span<const Row> copy_rows();
std::span<const Row> tensor_copy_rows();
std::span<const Row> tcgen05_rows();
std::span<const Row> tensor_memory_rows();
std::span<const Row> wgmma_rows();
std::span<const Row> grid_rows();

}  // namespace sim
