// What a launch's instructions cost, by the unit that executes them.
#include <string_view>

#include "isa/row.h"
#include "machine/grid_state.h"

namespace sim {
namespace {

// Operations that a lane does: two in a packed instruction such as fma.rn.f32x2.
u64 operations_of_lane(std::string_view statement) {
  for (std::string_view packed : {".f32x2", ".f16x2", ".bf16x2"})
    if (statement.find(packed) != std::string_view::npos) return 2;
  return 1;
}

}  // namespace

void count_units(const Program& program, const std::vector<u64>& executed, Counters& counters) {
  for (std::size_t pc = 0; pc < executed.size(); ++pc) {
    const u64 times = executed[pc], lanes = times * warp_size;
    if (!times) continue;
    counters.warp_instructions += times;
    const Unit unit = table()[program.code[pc].row].unit;
    if (unit != Unit::none) counters.issue_slots += times;
    if (unit == Unit::alu) counters.alu_operations += lanes;
    if (unit == Unit::fma) counters.fma_operations += lanes * operations_of_lane(program.text[pc]);
    if (unit == Unit::mufu) counters.mufu_operations += lanes;
  }
}

}  // namespace sim
