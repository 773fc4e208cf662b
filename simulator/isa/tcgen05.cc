// tcgen05.mma and tcgen05.commit (PTX ISA, "TensorCore 5th Generation Family: Matrix multiply and accumulate").
#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "isa/families.h"
#include "isa/bulk.h"
#include "machine/tensor_core.h"

namespace sim {
namespace {

enum Field { kPair, kMulticast, kTensorA, kDisable };

constexpr u32 depth = 16;  // of kind::f16

// One product as issued.
struct Product {
  bool pair, accumulate, a_in_tensor_memory;
  u32 d, pipe;
  u64 a, b;
  InstructionDescriptor shape;
  std::array<u32, 8> disabled_lanes{};
  check::Time time = 0;
  u32 ctas() const { return pair ? 2 : 1; }
  u32 rows() const { return shape.m / ctas(); }  // in each CTA
};

// Where the rows of one CTA lie in its tensor memory: in bands of lanes, each a run of rows, and for a pair with M =
// 128 in two halves of the columns.
struct Band {
  u32 row, rows, lane, column, columns;  // columns [column, column + columns) of N
};
std::vector<Band> bands(const Product& p, u32 first_lane) {
  u32 n = p.shape.n;
  if (p.rows() == 128) return {{0, 128, first_lane, 0, n}};
  if (p.pair) return {{0, 64, first_lane, 0, n / 2}, {0, 64, first_lane + 64, n / 2, n / 2}};
  std::vector<Band> sixteens;
  for (u32 i = 0; i < 4; ++i) sixteens.push_back({16 * i, 16, first_lane + 32 * i, 0, n});
  return sixteens;
}

// Operands of one product, widened: reused by the thread that performs it.
struct Scratch {
  MatrixView view;
  std::vector<u16> bits;
  std::vector<float> a, b, d;
};

class Performer {
 public:
  Performer(Cluster& cluster, const Product& product, const Issue& made)
      : cluster_(cluster),
        p_(product),
        made_(made),
        actor_(made.actor(cluster.pipes[product.pipe].agent, product.time)) {}

  void perform() {
    static thread_local Scratch scratch;
    Scratch& s = scratch;
    u32 n = p_.shape.n, b_rows = n / p_.ctas();
    s.b.resize(n * depth);
    for (u32 i = 0; i < p_.ctas(); ++i)
      operand(s, *cluster_.ctas[p_.pipe + i], p_.b, p_.shape.b_mn_major, b_rows, p_.shape.b, p_.shape.negate_b,
              s.b.data() + i * b_rows * depth);
    s.a.resize(p_.rows() * depth);
    for (u32 i = 0; i < p_.ctas(); ++i) {
      Cta& cta = *cluster_.ctas[p_.pipe + i];
      if (p_.a_in_tensor_memory) tensor_operand(s, cta);
      else operand(s, cta, p_.a, p_.shape.a_mn_major, p_.rows(), p_.shape.a, p_.shape.negate_a, s.a.data());
      accumulate(s, cta, i);
    }
    count();
  }

 private:
  // A matrix in shared memory, by its descriptor.
  void operand(Scratch& s, Cta& cta, u64 descriptor, bool mn_major, u32 rows, Element element, bool negate,
               float* out) {
    view_sm100(descriptor, mn_major, rows, depth, s.view);
    for (u32 chunk : s.view.chunks)
      if (chunk < cluster_.grid.launch.device.reserved_shared || chunk + 16 > cta.shared_end)
        cluster_.fault(check::Kind::out_of_bounds, "a matrix operand lies outside the CTA's shared memory",
                       "shared " + hex(chunk), made_.origin, "descriptor " + hex(descriptor));
    if (cluster_.history) cluster_.history->read_shared(actor_, cta.rank, s.view.chunks, 16);
    s.bits.resize(rows * depth);
    gather(s.view, cta.shared(0), s.bits.data());
    widen(element, s.bits.data(), out, rows * depth);
    if (negate) std::for_each_n(out, rows * depth, [](float& x) { x = -x; });
  }

  void require_allocated(Cta& cta, u32 column, u32 columns) {
    if (!cta.tensor.allocated(column, columns))
      cluster_.fault(check::Kind::tensor_memory, "tcgen05.mma uses columns of tensor memory that are not allocated",
                     "columns " + std::to_string(column) + " to " + std::to_string(column + columns - 1), made_.origin);
  }

  // A in tensor memory: a pair of elements per column, row r at the lane where row r of D lies.
  void tensor_operand(Scratch& s, Cta& cta) {
    u32 address = static_cast<u32>(p_.a), column = TensorMemory::column_of(address);
    if (p_.pair && p_.rows() == 64)
      cluster_.fault(check::Kind::undefined, "A in tensor memory with cta_group::2 and M = 128 is not modelled",
                     "tensor memory " + hex(address), made_.origin);
    require_allocated(cta, column, depth / 2);
    s.bits.resize(p_.rows() * depth);
    for (const Band& band : bands(p_, TensorMemory::lane_of(address))) {
      touch(cta, band.lane, band.rows, column, depth / 2, false);
      for (u32 r = 0; r < band.rows; ++r)
        for (u32 k = 0; k < depth / 2; ++k)
          std::memcpy(&s.bits[(band.row + r) * depth + 2 * k], &cta.tensor.at(band.lane + r, column + k), 4);
    }
    widen(p_.shape.a, s.bits.data(), s.a.data(), p_.rows() * depth);
    if (p_.shape.negate_a) std::ranges::for_each(s.a, [](float& x) { x = -x; });
  }

  void touch(Cta& cta, u32 lane, u32 lanes, u32 column, u32 columns, bool write) {
    if (!cluster_.history) return;
    for (u32 half = lane / 16; half < (lane + lanes) / 16; ++half) {
      if (write) cluster_.history->write_tensor(actor_, cta.rank, half, column, columns);
      else cluster_.history->read_tensor(actor_, cta.rank, half, column, columns);
    }
  }

  // D = A B^T (+ D). Tensor memory is column-major: D^T = B A^T is written in place.
  void accumulate(Scratch& s, Cta& cta, u32 which) {
    u32 first = TensorMemory::column_of(p_.d);
    require_allocated(cta, first, p_.pair && p_.rows() == 64 ? p_.shape.n / 2 : p_.shape.n);
    for (const Band& band : bands(p_, TensorMemory::lane_of(p_.d))) {
      if (p_.accumulate) touch(cta, band.lane, band.rows, first, band.columns, false);
      touch(cta, band.lane, band.rows, first, band.columns, true);
      std::vector<u32> kept = keep(cta, band, first, which);
      multiply(reinterpret_cast<float*>(&cta.tensor.at(band.lane, first)), TensorMemory::lanes,
               s.b.data() + band.column * depth, s.a.data() + band.row * depth, band.columns, band.rows, depth,
               p_.accumulate);
      restore(cta, band, first, which, kept);
    }
  }

  bool disabled(u32 which, u32 lane) const { return (p_.disabled_lanes[which * 4 + lane / 32] >> lane % 32 & 1) != 0; }

  // disable-output-lane: those lanes of D keep what they hold.
  std::vector<u32> keep(Cta& cta, const Band& band, u32 first, u32 which) {
    std::vector<u32> kept;
    if (std::ranges::all_of(p_.disabled_lanes, [](u32 bits) { return bits == 0; })) return kept;
    for (u32 lane = band.lane; lane < band.lane + band.rows; ++lane)
      for (u32 c = 0; disabled(which, lane) && c < band.columns; ++c) kept.push_back(cta.tensor.at(lane, first + c));
    return kept;
  }
  void restore(Cta& cta, const Band& band, u32 first, u32 which, const std::vector<u32>& kept) {
    if (kept.empty()) return;
    auto next = kept.begin();
    for (u32 lane = band.lane; lane < band.lane + band.rows; ++lane)
      for (u32 c = 0; disabled(which, lane) && c < band.columns; ++c) cta.tensor.at(lane, first + c) = *next++;
  }

  // 4096 dense 16-bit multiply-adds a clock and CTA: 128 x 128 x 16 in 64 clocks (measured 64.6, SemiAnalysis
  // microbench-blackwell).
  void count() {
    u64 macs = u64{p_.shape.m} * p_.shape.n * depth;
    cluster_.counters.tensor_macs += macs;
    ++cluster_.counters.tensor_instructions;
    cluster_.counters.tensor_cycles += macs / p_.ctas() / 4096;
  }

  Cluster& cluster_;
  const Product& p_;
  const Issue& made_;
  check::Actor actor_;
};

TensorPipe& pipe(Cluster& cluster, u32 rank) {
  TensorPipe& found = cluster.pipes[rank];
  if (!found.agent && cluster.history) found.agent = cluster.history->agent(check::AgentKind::tcgen05, rank, 0);
  return found;
}

u32 pipe_of(Warp& warp, bool pair, const Origin& origin) {
  if (pair && warp.cluster.ctas.size() % 2)
    warp.cluster.fault(check::Kind::undefined, "cta_group::2 in a cluster without a CTA pair", "cluster", origin);
  return pair ? warp.cta.rank & ~1u : warp.cta.rank;
}

Product product(Warp& warp, const Inst& inst, const Issue& made) {
  Product p{};
  p.pair = inst.field[kPair];
  p.a_in_tensor_memory = inst.field[kTensorA];
  p.pipe = pipe_of(warp, p.pair, made.origin);
  p.d = static_cast<u32>(warp.address(inst.op[0], made.lane));
  p.a = p.a_in_tensor_memory ? warp.address(inst.op[1], made.lane) : warp.value(inst.op[1], made.lane);
  p.b = warp.value(inst.op[2], made.lane);
  for (u32 i = 0; i < inst.field[kDisable]; ++i)
    p.disabled_lanes[i] = static_cast<u32>(warp.value(inst.op[4 + i], made.lane));
  p.accumulate = warp.value(inst.op[inst.ops - 1], made.lane) != 0;
  p.shape = instruction_descriptor(static_cast<u32>(warp.value(inst.op[3], made.lane)), p.pair ? 2 : 1);
  auto require_first_lane = [&](const char* what, u64 address) {
    u32 lane = TensorMemory::lane_of(static_cast<u32>(address));
    if (lane != 0 && !(p.rows() == 64 && !p.pair && lane == 16))
      warp.cluster.fault(check::Kind::undefined, std::string(what) + " must begin at lane 0 (or 16 for M = 64)",
                         "tensor memory " + hex(address), made.origin);
  };
  require_first_lane("the accumulator", p.d);
  if (p.a_in_tensor_memory) require_first_lane("A in tensor memory", p.a);
  return p;
}

// What the descriptors say wrong is told with the instruction's place.
template <class F> auto explained(Cluster& cluster, const Issue& made, F f) {
  try {
    return f();
  } catch (const Error& error) {
    cluster.fault(check::Kind::undefined, error.what(), "matrix descriptors", made.origin);
  }
}

Step mma(Warp& warp, const Inst& inst) {
  Issue made = issue(warp, "tcgen05.mma");
  Cluster& cluster = warp.cluster;
  Product p = explained(cluster, made, [&] { return product(warp, inst, made); });
  TensorPipe& order = pipe(cluster, p.pipe);
  p.time = order.time++;
  ++order.products;
  cluster.engine.submit_tcgen05(
      p.pipe, [=, &cluster] { explained(cluster, made, [&] { Performer(cluster, p, made).perform(); }); });
  return Step::next();
}

// Arrives once all earlier operations of the pipe are done; with multicast at the same offset in each CTA of the mask.
Step commit(Warp& warp, const Inst& inst) {
  Issue made = issue(warp, "tcgen05.commit");
  Cluster& cluster = warp.cluster;
  u32 rank = pipe_of(warp, inst.field[kPair], made.origin);
  TensorPipe& order = pipe(cluster, rank);
  check::Agent agent = order.agent;
  check::Time time = order.time++;
  u64 address = warp.address(inst.op[0], made.lane);
  bool multicast = inst.field[kMulticast];
  u32 mask = multicast ? static_cast<u32>(warp.value(inst.op[1], made.lane)) : 0;
  if (multicast) require_ctas(cluster, mask, made);
  cluster.engine.submit_tcgen05(rank, [=, &cluster] {
    check::Knowledge passed;
    if (made.known) {
      passed = *made.known;
      passed.generic.learn(agent, time);
      passed.fenced.learn(agent, time);
    }
    for (u32 cta = 0; cta < (multicast ? cluster.ctas.size() : 1); ++cta) {
      if (multicast && !(mask >> cta & 1)) continue;
      u64 target = multicast ? (address & 0xFFFFFF) | u64{cta} << 24 : address;
      Mbarrier& barrier = cluster.mbarrier(target, made.origin, made.known.get(), true);
      cluster.arrive(barrier, *cluster.ctas[target >> 24], 1, passed, made.origin);
    }
  });
  return Step::next();
}

Execute bind_mma(Binding& binding) {
  Inst& inst = binding.inst;
  inst.field[kPair] = binding.spelling.has("cta_group::2");
  inst.field[kTensorA] = binding.op[1].bytes == 4;
  u32 disable = static_cast<u32>(binding.op.size()) - 5;
  inst.field[kDisable] = disable;
  if (disable != 0 && disable != (inst.field[kPair] ? 8 : 4))
    binding.refuse("disable-output-lane has " + std::to_string(disable) + " registers");
  return mma;
}

Execute bind_commit(Binding& binding) {
  binding.inst.field[kPair] = binding.spelling.has("cta_group::2");
  binding.inst.field[kMulticast] = binding.spelling.has("multicast::cluster");
  return commit;
}

const Row rows[] = {
    {"tcgen05.mma.cta_group::{1,2}.kind::f16[.collector::a::{fill,use,lastuse,discard}]   [d:b32], a:b64|[a:b32], "
     "b:b64, i:b32[, {l:b32}], p:pred",
     bind_mma, Unit::tensor},
    {"tcgen05.commit.cta_group::{1,2}.mbarrier::arrive::one[.shared::cluster][.multicast::cluster].b64   "
     "[a][multicast::cluster, m:u16]",
     bind_commit, Unit::tensor},
};

}  // namespace

std::span<const Row> tcgen05_rows() { return rows; }

}  // namespace sim
