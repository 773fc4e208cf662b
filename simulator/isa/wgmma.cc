// wgmma (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions"): each warp of a warpgroup makes its 16 of the 64
// rows of D.
//
// Results are written when the instruction is issued, whatever the schedule: who touches them, or the operands in
// shared memory, before the instruction is known complete is found by the checks, not by wrong values.
#include <algorithm>
#include <charconv>

#include "isa/families.h"
#include "machine/cta.h"
#include "machine/descriptor.h"
#include "machine/grid_state.h"
#include "machine/tensor_core.h"

namespace sim {
namespace {

constexpr u32 depth = 16, all_rows = 64, own_rows = 16, most_columns = 256, chunk_bytes = 16, warpgroup_warps = 4;

// field[kFlags]
enum Field { kColumns, kElement, kFlags };
enum Flag : u32 { kFromRegisters = 1, kTransposedA = 2, kTransposedB = 4, kNegated = 8 };

struct Operands {
  const Operand *d, *a, *b, *accumulates;
  explicit Operands(const Inst& inst)
      : d(inst.op), a(d + inst.field[kColumns] / 2), b(a + (inst.field[kFlags] & kFromRegisters ? 4 : 1)),
        accumulates(b + 1) {}
};

// What an instruction works with; too large for the stack of a thread that runs many clusters.
struct Scratch {
  MatrixView a, b;
  u16 bits[most_columns * depth];
  float a_values[own_rows * depth], b_values[most_columns * depth], d[own_rows * most_columns];
};

Scratch& scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

u32 first_row(const Warp& warp) { return warp.index % warpgroup_warps * own_rows; }

u64 descriptor(Warp& warp, const Operand& operand) {
  const u64* lanes = warp.in<u64>(operand);
  const u64 value = lanes[warp.first_lane()];
  for (Mask rest = warp.active; rest; rest &= rest - 1)
    if (lanes[__builtin_ctz(rest)] != value)
      warp.cluster.fault(check::Kind::undefined, "lanes give wgmma.mma_async different descriptors", "registers",
                         warp.origin(), hex(value) + " and " + hex(lanes[__builtin_ctz(rest)]));
  return value;
}

bool accumulates(Warp& warp, const Operand& operand) {
  const Mask yes = warp.predicate(operand) & warp.active;
  if (yes && yes != warp.active)
    warp.cluster.fault(check::Kind::undefined, "lanes give wgmma.mma_async different values of scale-d", "registers",
                       warp.origin());
  return yes != 0;
}

void view(Warp& warp, u64 descriptor, bool transposed, u32 rows, MatrixView& view) {
  try {
    view_sm90(descriptor, transposed, rows, depth, view);
  } catch (const Error& error) {
    warp.cluster.fault(check::Kind::undefined, error.what(), "descriptor " + hex(descriptor), warp.origin());
  }
}

// Of the view of all 64 rows of A, the chunks of this warp's.
void keep_own_rows(MatrixView& view, u32 first) {
  if (view.mn_major) {
    for (u32 k = 0; k < depth; ++k)
      std::copy_n(view.chunks.begin() + k * (all_rows / 8) + first / 8, own_rows / 8,
                  view.chunks.begin() + k * (own_rows / 8));
  } else {
    std::copy_n(view.chunks.begin() + first * (depth / 8), own_rows * (depth / 8), view.chunks.begin());
  }
  view.rows = own_rows;
  view.chunks.resize(own_rows * (depth / 8));
}

// The part of B whose reads are this warp's to answer for: the four warps of a group read all of it, each remembers a
// quarter.
std::span<const u32> own_quarter(const Warp& warp, const MatrixView& view) {
  const std::size_t quarter = view.chunks.size() / warpgroup_warps;
  return std::span(view.chunks).subspan(warp.index % warpgroup_warps * quarter, quarter);
}

// Reads an operand from shared memory; `answered` are the chunks that are checked as this warp's.
void read(Warp& warp, const MatrixView& view, std::span<const u32> answered, Element element, const char* name,
          float* values) {
  Cluster& cluster = warp.cluster;
  Cta& cta = warp.cta;
  const u32 start = cluster.grid.launch.device.reserved_shared;
  for (u32 chunk : view.chunks)
    if (chunk < start || chunk + chunk_bytes > cta.shared_end)
      cluster.fault(check::Kind::out_of_bounds,
                    std::string("operand ") + name + " of wgmma.mma_async lies outside the CTA's shared memory",
                    "shared " + hex(chunk) + ", " + std::to_string(chunk_bytes) + " bytes", warp.origin(),
                    "the CTA has " + hex(start) + " to " + hex(cta.shared_end) + " (below: reserved by the system)");
  if (cluster.history) {
    const check::Knowledge* known = &warp.view.known_to(all_lanes);
    const check::Actor actor{warp.product_agent, warp.product_time, all_lanes, true, warp.pc(), known, false};
    cluster.history->read_shared(actor, cta.rank, answered, chunk_bytes);
  }
  gather(view, cta.shared(0), scratch().bits);
  widen(element, scratch().bits, values, std::size_t{view.rows} * depth);
}

// Register r of lane l holds row l/4 + 8*(r%2), columns 2*(l%4) + 8*(r/2) and the next.
void read_fragment(Warp& warp, const Operand* a, Element element, float* values) {
  u16* bits = scratch().bits;
  for (u32 r = 0; r < 4; ++r) {
    const u32* lanes = warp.in<u32>(a[r]);
    for (u32 lane = 0; lane < warp_size; ++lane) {
      u16* pair = bits + (lane / 4 + 8 * (r % 2)) * depth + 2 * (lane % 4) + 8 * (r / 2);
      pair[0] = static_cast<u16>(lanes[lane]);
      pair[1] = static_cast<u16>(lanes[lane] >> 16);
    }
  }
  widen(element, bits, values, own_rows * depth);
}

// Register j of lane l holds row l/4 + 8*(j/2%2), column 8*(j/4) + 2*(l%4) + j%2.
template <class F> void for_each_accumulator(u32 columns, F visit) {
  for (u32 j = 0; j < columns / 2; ++j)
    for (u32 lane = 0; lane < warp_size; ++lane)
      visit(j, lane, (lane / 4 + 8 * (j / 2 % 2)) * columns + 8 * (j / 4) + 2 * (lane % 4) + j % 2);
}

// A product begins: its order among the warp's others, and that of the registers it touches.
void begin(Warp& warp) {
  Cluster& cluster = warp.cluster;
  if (warp.cta.warps.size() < (warp.index / warpgroup_warps + 1) * warpgroup_warps)
    cluster.fault(check::Kind::undefined, "wgmma.mma_async needs a whole warpgroup, four warps", warp.name(),
                  warp.origin(), "the CTA has " + std::to_string(warp.cta.warps.size()) + " warps");
  if (cluster.history) {
    if (!warp.product_agent)
      warp.product_agent = cluster.history->agent(check::AgentKind::wgmma, warp.cta.rank, warp.index);
    if (!warp.products_fenced && !cluster.grid.reports.seen(check::Kind::race, ~0u, warp.pc()))
      cluster.warn(check::Kind::race, "wgmma.mma_async without wgmma.fence since its registers were touched",
                   "registers", warp.origin(),
                   "wgmma.fence orders what was done to registers before what wgmma.mma_async does to them");
  }
  warp.products.push_back({warp.pc(), warp.product_time});
}

void count(const Warp& warp, u32 columns) {
  Counters& counters = warp.cluster.counters;
  counters.tensor_macs += u64{own_rows} * columns * depth;
  if (warp.index % warpgroup_warps != 0) return;
  ++counters.tensor_instructions;
  // NVIDIA H100 architecture white paper: 989.4 TFLOP/s of dense BF16 on 132 multiprocessors at 1830 MHz, that is 2048
  // multiply-adds a clock and multiprocessor.
  counters.tensor_cycles += all_rows * columns * depth / 2048;
}

Step mma_async(Warp& warp, const Inst& inst) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  const Operands op(inst);
  const u32 columns = inst.field[kColumns], flags = inst.field[kFlags];
  const auto element = static_cast<Element>(inst.field[kElement]);
  Scratch& s = scratch();
  begin(warp);
  if (flags & kFromRegisters) {
    read_fragment(warp, op.a, element, s.a_values);
  } else {
    view(warp, descriptor(warp, *op.a), flags & kTransposedA, all_rows, s.a);
    keep_own_rows(s.a, first_row(warp));
    read(warp, s.a, s.a.chunks, element, "A", s.a_values);
  }
  view(warp, descriptor(warp, *op.b), flags & kTransposedB, columns, s.b);
  read(warp, s.b, own_quarter(warp, s.b), element, "B", s.b_values);
  if (flags & kNegated)
    for (float& value : s.a_values) value = -value;

  const bool adds = accumulates(warp, *op.accumulates);
  if (adds) for_each_accumulator(columns, [&](u32 j, u32 lane, u32 at) { s.d[at] = warp.in<float>(op.d[j])[lane]; });
  multiply(s.d, columns, s.a_values, s.b_values, own_rows, columns, depth, adds);
  for_each_accumulator(columns, [&](u32 j, u32 lane, u32 at) { warp.out<float>(op.d[j])[lane] = s.d[at]; });
  count(warp, columns);
  return Step::next();
}

Step fence(Warp& warp, const Inst&) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  warp.products_fenced = true;
  return Step::next();
}

Step commit_group(Warp& warp, const Inst&) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  warp.product_group_time.push_back(warp.product_time++);
  return Step::next();
}

Step wait_group(Warp& warp, const Inst& inst) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  std::vector<check::Time>& groups = warp.product_group_time;
  const u64 allowed = static_cast<u64>(inst.op[0].offset);
  if (groups.size() <= allowed) return Step::next();
  const auto kept = groups.end() - static_cast<std::ptrdiff_t>(allowed);
  const check::Time complete = *(kept - 1);
  groups.erase(groups.begin(), kept);
  std::erase_if(warp.products, [&](const Warp::Outstanding& product) { return product.time <= complete; });
  if (warp.product_agent) warp.view.learn(warp.product_agent, complete, all_lanes);
  return Step::next();
}

Execute bind_mma_async(Binding& binding) {
  Inst& inst = binding.inst;
  const std::string_view shape = binding.spelling.starting("m64n");
  u32 columns = 0;
  std::from_chars(shape.data() + 4, shape.data() + shape.size(), columns);
  if (binding.group[0] != columns / 2)
    binding.refuse("D is a vector of " + std::to_string(columns / 2) + " registers; got " +
                   std::to_string(binding.group[0]));
  const bool from_registers = binding.op[columns / 2].bytes == 4;
  if (from_registers && binding.group[1] != 4)
    binding.refuse("A is a vector of 4 registers; got " + std::to_string(binding.group[1]));
  const bool both_transpose = binding.group[7] != 0;
  if (both_transpose == from_registers)
    binding.refuse(from_registers ? "with A in registers only B has a transpose flag"
                                  : "with A in shared memory both A and B have a transpose flag");
  const std::size_t first = columns / 2 + binding.group[1] + 2;  // of the constants, behind B and scale-d
  auto constant = [&](std::size_t index, i64 one, i64 other, const char* name) {
    const i64 value = binding.op[first + index].offset;
    if (value != one && value != other)
      binding.refuse(std::string(name) + " is " + std::to_string(value) + ": it must be " + std::to_string(one) +
                     " or " + std::to_string(other));
    return value == other;
  };
  const bool negate_a = constant(0, 1, -1, "imm-scale-a"), negate_b = constant(1, 1, -1, "imm-scale-b");
  const bool transposed_a = both_transpose && constant(2, 0, 1, "imm-trans-a");
  const bool transposed_b = constant(both_transpose ? 3 : 2, 0, 1, "imm-trans-b");
  inst.field[kColumns] = columns;
  inst.field[kElement] = static_cast<u32>(binding.spelling.has("bf16") ? Element::bf16 : Element::f16);
  inst.field[kFlags] = (from_registers ? kFromRegisters : 0u) | (transposed_a ? kTransposedA : 0u) |
                       (transposed_b ? kTransposedB : 0u) | (negate_a != negate_b ? kNegated : 0u);
  return mma_async;
}

const Row rows[] = {
    {"wgmma.fence.sync.aligned", fence, Unit::control},
    {"wgmma.commit_group.sync.aligned", commit_group, Unit::control},
    {"wgmma.wait_group.sync.aligned #n", wait_group, Unit::control},
    {"wgmma.mma_async.sync.aligned.m64n{8,16,24,32,40,48,56,64,72,80,88,96,104,112,120,128,136,144,152,160,168,176,184,"
     "192,200,208,216,224,232,240,248,256}k16.f32.{f16.f16,bf16.bf16} {d:f32}, a:b64|{a:b32}, b:b64, p:pred, #i, #j, #s"
     "[, #t]",
     bind_mma_async, Unit::tensor, true},
};

}  // namespace

std::span<const Row> wgmma_rows() { return rows; }

}  // namespace sim
