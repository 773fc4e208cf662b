// tcgen05.alloc, dealloc, ld, st, wait: tensor memory and the registers of a warp (PTX ISA, "Tensor Memory and Register
// Load/Store").
#include <bit>
#include <cstring>
#include <utility>

#include "isa/families.h"
#include "machine/cta.h"
#include "machine/grid_state.h"

namespace sim {
namespace {

constexpr u32 halves = 8;  // of 16 lanes

// Where element j of a lane's registers lies: lane 0..31 of the warp's quarter, column relative to the address.
struct Cell {
  u32 lane, column;
};
enum class Shape : u32 { s32x32b, s16x64b, s16x128b, s16x256b };

constexpr Cell cell(Shape shape, u32 t, u32 j) {
  switch (shape) {
    case Shape::s32x32b: return {t, j};
    case Shape::s16x64b: return {8 * (t % 2) + t / 4, 2 * j + t / 2 % 2};
    case Shape::s16x128b: return {t / 4 + 8 * (j % 2), 4 * (j / 2) + t % 4};
    case Shape::s16x256b: return {t / 4 + 8 * (j / 2 % 2), 8 * (j / 4) + 2 * (t % 4) + j % 2};
  }
  return {};
}
constexpr u32 registers_of(Shape shape) { return shape == Shape::s16x256b ? 4 : shape == Shape::s16x128b ? 2 : 1; }
constexpr u32 columns_of(Shape shape) {
  return shape == Shape::s16x256b ? 8 : shape == Shape::s16x128b ? 4 : shape == Shape::s16x64b ? 2 : 1;
}

enum Field { kShape, kRepeat, kPair };

struct Region {
  u32 lane, column, columns, half, halves;
};

// The rectangle that an access touches; a fault if it is not the warp's to touch or not allocated.
Region region(Warp& warp, const Inst& inst, const Operand& address_operand) {
  Cluster& cluster = warp.cluster;
  u32 address = static_cast<u32>(warp.address(address_operand, warp.first_lane()));
  Shape shape = static_cast<Shape>(inst.field[kShape]);
  u32 lanes = shape == Shape::s32x32b ? 32 : 16;
  Region r{TensorMemory::lane_of(address), TensorMemory::column_of(address), columns_of(shape) * inst.field[kRepeat], 0,
           lanes / 16};
  r.half = r.lane / 16;
  auto where = [&] {
    return "tensor memory " + hex(address) + " (lane " + std::to_string(r.lane) + ", column " +
           std::to_string(r.column) + ")";
  };
  if (r.lane % lanes || r.lane >= TensorMemory::lanes || r.lane / 32 != warp.index % 4)
    cluster.fault(check::Kind::out_of_bounds, "a warp may touch only its own 32 lanes of tensor memory", where(),
                  warp.origin(),
                  "warp " + std::to_string(warp.index) + " has lanes " + std::to_string(32 * (warp.index % 4)) +
                      " to " + std::to_string(32 * (warp.index % 4) + 31));
  if (!warp.cta.tensor.allocated(r.column, r.columns))
    cluster.fault(check::Kind::tensor_memory, "access to columns of tensor memory that are not allocated", where(),
                  warp.origin(), std::to_string(r.columns) + " columns");
  return r;
}

check::Agent agent_of(Warp& warp, check::Agent& agent, check::AgentKind kind) {
  if (!agent) agent = warp.cluster.history->agent(kind, warp.cta.rank, warp.index);
  return agent;
}

// Registers get their values at once; that the load has completed is known when a value is used or after
// tcgen05.wait::ld.
Step load(Warp& warp, const Inst& inst) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  Cluster& cluster = warp.cluster;
  u32 registers = static_cast<u32>(inst.ops) - 1;
  Region r = region(warp, inst, inst.op[registers]);
  if (cluster.history) {
    check::Actor actor{agent_of(warp, warp.load_agent, check::AgentKind::tensor_load),
                       warp.load_time,
                       all_lanes,
                       false,
                       warp.pc(),
                       &warp.view.known_to(all_lanes),
                       false};
    for (u32 i = 0; i < r.halves; ++i)
      cluster.history->read_tensor(actor, warp.cta.rank, r.half + i, r.column, r.columns);
    warp.loads.push_back({warp.pc(), warp.load_time++});
  }
  Shape shape = static_cast<Shape>(inst.field[kShape]);
  for (u32 j = 0; j < registers; ++j) {
    u32* out = warp.out<u32>(inst.op[j]);
    for (u32 t = 0; t < warp_size; ++t) {
      Cell at = cell(shape, t, j);
      out[t] = warp.cta.tensor.at(r.lane + at.lane, r.column + at.column);
    }
  }
  cluster.counters.tensor_memory_read_bytes += registers * warp_size * 4;
  return Step::next();
}

Step store(Warp& warp, const Inst& inst) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  Cluster& cluster = warp.cluster;
  u32 registers = static_cast<u32>(inst.ops) - 1;
  Region r = region(warp, inst, inst.op[0]);
  if (cluster.history) {
    check::Actor actor{agent_of(warp, warp.store_agent, check::AgentKind::tensor_store),
                       warp.store_time++,
                       all_lanes,
                       false,
                       warp.pc(),
                       &warp.view.known_to(all_lanes),
                       false};
    for (u32 i = 0; i < r.halves; ++i)
      cluster.history->write_tensor(actor, warp.cta.rank, r.half + i, r.column, r.columns);
  }
  Shape shape = static_cast<Shape>(inst.field[kShape]);
  for (u32 j = 0; j < registers; ++j) {
    const u32* in = warp.in<u32>(inst.op[1 + j]);
    for (u32 t = 0; t < warp_size; ++t) {
      Cell at = cell(shape, t, j);
      warp.cta.tensor.at(r.lane + at.lane, r.column + at.column) = in[t];
    }
  }
  cluster.counters.tensor_memory_write_bytes += registers * warp_size * 4;
  return Step::next();
}

Step wait_load(Warp& warp, const Inst&) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  if (!warp.loads.empty()) warp.view.learn(warp.load_agent, warp.loads.back().time, warp.live());
  warp.loads.clear();
  return Step::next();
}

Step wait_store(Warp& warp, const Inst&) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  if (warp.store_agent) warp.view.learn(warp.store_agent, warp.store_time - 1, warp.live());
  return Step::next();
}

// With cta_group::2 the issuing warp must make sure that the peer CTA has been launched: some barrier.cluster before.
// Without one, the first CTA to run gets here while no generation of that barrier is complete.
void require_peer(Warp& warp) {
  Cluster& cluster = warp.cluster;
  if (cluster.ctas.size() % 2)
    cluster.fault(check::Kind::undefined, "cta_group::2 in a cluster without a CTA pair", "cluster", warp.origin());
  if (cluster.barrier.generation || cluster.grid.reports.seen(check::Kind::tensor_memory, ~0u, warp.pc())) return;
  cluster.warn(check::Kind::tensor_memory, "tcgen05.alloc of a CTA pair before the peer CTA is known to run",
               "tensor memory", warp.origin(), "barrier.cluster.arrive and barrier.cluster.wait must come before it");
}

// Both CTAs of a pair allocate together: the second to come allocates for both, the first finds it done.
bool allocate(Warp& warp, u32 columns, bool pair, int& base) {
  TensorMemory& own = warp.cta.tensor;
  if (!pair) {
    base = own.allocate(columns, warp.pc());
    return base >= 0;
  }
  TensorMemory& peer = warp.cluster.ctas[warp.cta.rank ^ 1]->tensor;
  require_peer(warp);
  if (own.granted >= 0) {
    base = std::exchange(own.granted, -1);
    own.requested = 0;
    return true;
  }
  own.requested = columns;
  if (peer.requested != columns) return false;
  base = own.allocate(columns, warp.pc());
  if (base < 0) return false;
  int other = peer.allocate(columns, warp.pc());
  if (other != base)
    warp.cluster.fault(check::Kind::tensor_memory, "the two CTAs of a pair would get different columns",
                       "tensor memory", warp.origin(),
                       "column " + std::to_string(base) + " here, " + std::to_string(other) +
                           " in the peer: they have not allocated alike");
  peer.granted = other;
  own.requested = 0;
  ++peer.version;
  return true;
}

Step alloc(Warp& warp, const Inst& inst) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  Cluster& cluster = warp.cluster;
  TensorMemory& tensor = warp.cta.tensor;
  u32 columns = static_cast<u32>(warp.value(inst.op[1], warp.first_lane()));
  if (columns < 32 || columns > 512 || !std::has_single_bit(columns))
    cluster.fault(check::Kind::tensor_memory, "tcgen05.alloc takes 32, 64, 128, 256 or 512 columns", "tensor memory",
                  warp.origin(), "given " + std::to_string(columns));
  if (!tensor.permit)
    cluster.fault(check::Kind::tensor_memory, "tcgen05.alloc after relinquish_alloc_permit", "tensor memory",
                  warp.origin());
  SharedPlace place = cluster.shared(warp.address(inst.op[0], warp.first_lane()), 4, 4, warp.origin());
  int base = -1;
  if (!allocate(warp, columns, inst.field[kPair], base))
    return warp.wait(Waiting::On::tensor_memory, tensor.version, columns);
  tensor.completed = {warp.view.agent(), warp.view.now()};
  if (cluster.history) {
    cluster.history->forget_tensor(warp.cta.rank, static_cast<u32>(base), columns);
    cluster.history->write_shared(warp.actor(all_lanes), place.cta->rank, place.offset, 4);
  }
  std::memcpy(place.cta->shared(place.offset), &base, 4);
  return Step::next();
}

// The CTAs of a pair free together, too: one that does so while the peer's allocation is not yet complete breaks it.
void require_peer_allocated(Warp& warp) {
  Cluster& cluster = warp.cluster;
  const TensorMemory& peer = cluster.ctas[warp.cta.rank ^ 1]->tensor;
  const auto& [agent, time] = peer.completed;
  const bool known = !cluster.history || warp.view.known_to(all_lanes).generic.covers(agent, all_lanes, time);
  if (peer.granted < 0 && known) return;
  cluster.warn(check::Kind::tensor_memory,
               "tcgen05.dealloc before the peer CTA's tcgen05.alloc is known to be complete", "tensor memory",
               warp.origin(), "a barrier.cluster, or a signal of the peer, must come between them");
}

// Freeing is a write of all that is freed: whoever still reads or writes there races with it.
Step dealloc(Warp& warp, const Inst& inst) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  Cluster& cluster = warp.cluster;
  u32 address = static_cast<u32>(warp.value(inst.op[0], warp.first_lane()));
  u32 columns = static_cast<u32>(warp.value(inst.op[1], warp.first_lane()));
  u32 column = TensorMemory::column_of(address);
  if (inst.field[kPair]) require_peer_allocated(warp);
  if (!warp.cta.tensor.release(column, columns))
    cluster.fault(check::Kind::tensor_memory, "tcgen05.dealloc of columns that were not allocated so",
                  "tensor memory " + hex(address) + ", " + std::to_string(columns) + " columns", warp.origin());
  if (cluster.history) {
    for (u32 half = 0; half < halves; ++half)
      cluster.history->write_tensor(warp.actor(all_lanes), warp.cta.rank, half, column, columns);
    cluster.history->forget_tensor(warp.cta.rank, column, columns);
  }
  return Step::next();
}

Step relinquish(Warp& warp, const Inst&) {
  warp.cta.tensor.permit = false;
  return Step::next();
}

// No effect: ordering between threads is taken from the barriers, and shipped kernels leave these fences out.
Step fence(Warp&, const Inst&) { return Step::next(); }

template <Execute body> Execute bind_pair(Binding& binding) {
  binding.inst.field[kPair] = binding.spelling.has("cta_group::2");
  return body;
}

template <Execute body, u32 group> Execute bind_shape(Binding& binding) {
  const Spelling& spelling = binding.spelling;
  Shape shape = spelling.has("32x32b")    ? Shape::s32x32b
                : spelling.has("16x64b")  ? Shape::s16x64b
                : spelling.has("16x128b") ? Shape::s16x128b
                                          : Shape::s16x256b;
  u32 repeat = static_cast<u32>(std::stoul(std::string(spelling.starting("x").substr(1))));
  binding.inst.field[kShape] = static_cast<u32>(shape);
  binding.inst.field[kRepeat] = repeat;
  if (binding.group[group] != registers_of(shape) * repeat)
    binding.refuse(std::to_string(registers_of(shape) * repeat) + " registers are needed, not " +
                   std::to_string(binding.group[group]));
  return body;
}

#define REPEATS ".{32x32b,16x64b}.{x1,x2,x4,x8,x16,x32,x64,x128}.b32"
#define REPEATS2 ".16x128b.{x1,x2,x4,x8,x16,x32,x64}.b32"
#define REPEATS4 ".16x256b.{x1,x2,x4,x8,x16,x32}.b32"
const Row rows[] = {
    {"tcgen05.alloc.cta_group::{1,2}.sync.aligned[.shared::cta].b32        [a], n", bind_pair<alloc>, Unit::control},
    {"tcgen05.dealloc.cta_group::{1,2}.sync.aligned.b32                    a, n", bind_pair<dealloc>, Unit::control},
    {"tcgen05.relinquish_alloc_permit.cta_group::{1,2}.sync.aligned", relinquish, Unit::control},
    {"tcgen05.ld.sync.aligned" REPEATS "      d|{d}, [a:b32]", bind_shape<load, 0>, Unit::tensor, true},
    {"tcgen05.ld.sync.aligned" REPEATS2 "     {d}, [a:b32]", bind_shape<load, 0>, Unit::tensor, true},
    {"tcgen05.ld.sync.aligned" REPEATS4 "     {d}, [a:b32]", bind_shape<load, 0>, Unit::tensor, true},
    {"tcgen05.st.sync.aligned" REPEATS "      [a:b32], b|{b}", bind_shape<store, 1>, Unit::tensor},
    {"tcgen05.st.sync.aligned" REPEATS2 "     [a:b32], {b}", bind_shape<store, 1>, Unit::tensor},
    {"tcgen05.st.sync.aligned" REPEATS4 "     [a:b32], {b}", bind_shape<store, 1>, Unit::tensor},
    {"tcgen05.wait::ld.sync.aligned", wait_load, Unit::control},
    {"tcgen05.wait::st.sync.aligned", wait_store, Unit::control},
    {"tcgen05.fence::{before,after}_thread_sync", fence, Unit::control},
};
#undef REPEATS
#undef REPEATS2
#undef REPEATS4

}  // namespace

std::span<const Row> tensor_memory_rows() { return rows; }

}  // namespace sim
