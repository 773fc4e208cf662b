// Which instructions touch a register that an asynchronous one writes only later (tcgen05.ld, wgmma.mma_async), or
// overwrite one that it reads only later (fragments of A in wgmma.mma_async).
#include <algorithm>
#include <iterator>
#include <map>

#include "ptx/bind.h"

namespace sim::ptx {
namespace {

using Pcs = std::vector<u32>;

// Calls `visit` for the slot and width of each register that an instruction touches.
template <class Visit>
void for_each_register(const Program& program, std::span<const Touch> touches, const Inst& inst, Visit visit) {
  if (inst.guard != Inst::no_guard) visit(inst.guard, 0, Touch::reads);
  auto first = static_cast<std::size_t>(inst.op - program.operands.data());
  for (std::size_t i = 0; i < inst.ops; ++i)
    if (touches[first + i] != Touch::nothing) visit(inst.op[i].slot, inst.op[i].bytes, touches[first + i]);
}

void add(std::unordered_map<u32, Pcs>& by_slot, u32 slot, u32 pc) {
  Pcs& pcs = by_slot[slot];
  if (pcs.empty() || pcs.back() != pc) pcs.push_back(pc);
}

void join(Pcs& all, const std::unordered_map<u32, Pcs>& by_slot, u32 slot) {
  auto found = by_slot.find(slot);
  if (found == by_slot.end()) return;
  Pcs joined;
  std::set_union(all.begin(), all.end(), found->second.begin(), found->second.end(), std::back_inserter(joined));
  all = std::move(joined);
}

}  // namespace

void find_awaited(Program& program, std::span<const Touch> touches, const Table& table) {
  std::unordered_map<u32, Pcs> writers, readers;  // by slot
  for (u32 pc = 0; pc < program.code.size(); ++pc) {
    const Inst& inst = program.code[pc];
    const Row& row = table.row(inst.row);
    if (!row.writes_later) continue;
    const bool reads_later = row.syntax.starts_with("wgmma");
    for_each_register(program, touches, inst, [&](u32 slot, u32 bytes, Touch touch) {
      if (touch == Touch::writes) add(writers, slot, pc);
      else if (reads_later && bytes == 4) add(readers, slot, pc);
    });
  }
  if (writers.empty()) return;
  std::map<Pcs, u32> known;  // index in Program::awaited
  for (u32 pc = 0; pc < program.code.size(); ++pc) {
    Inst& inst = program.code[pc];
    Pcs all;
    for_each_register(program, touches, inst, [&](u32 slot, u32, Touch touch) {
      join(all, writers, slot);
      if (touch == Touch::writes) join(all, readers, slot);
    });
    std::erase(all, pc);
    if (all.empty()) continue;
    auto [list, is_new] = known.try_emplace(all, static_cast<u32>(program.awaited.size()));
    if (is_new) program.awaited.push_back(std::move(all));
    inst.awaits = list->second;
  }
}

}  // namespace sim::ptx
