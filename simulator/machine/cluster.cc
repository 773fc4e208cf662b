// A cluster: its CTAs, the turns its warps take, and the end of its CTAs.
#include "machine/cluster.h"

#include "machine/grid_state.h"

namespace sim {

Cta::Cta(Cluster& cluster_, u32 rank_, Dim3 id_)
    : cluster(cluster_), rank(rank_), id(id_), shared_end(cluster_.grid.shared_end()), mbarriers(shared_end),
      shared_(static_cast<u8*>(std::calloc(shared_end, 1))) {}

namespace {

// What ptxas may give each thread when nothing else is said: an even share, in steps of 8, at most 255 (cut to 248).
u32 entry_registers(u32 registers, u32 threads) { return std::min(248u, registers / threads / 8 * 8); }

}  // namespace

Cluster::Cluster(Grid& grid_, u32 number_)
    : grid(grid_),
      number(number_),
      engine(grid_.options, number_),
      pipes(grid_.cluster_ctas),
      executed(grid_.program.code.size()) {
  const Launch& launch = grid.launch;
  std::vector<Dim3> ids;
  for (u32 rank = 0; rank < grid.cluster_ctas; ++rank) ids.push_back(cta_id(rank));
  if (grid.options.checks)
    history =
        std::make_unique<check::HappensBefore>(number, grid.cluster_ctas, grid.shared_end(),
                                               launch.device.reserved_shared, grid.global_history, grid.reports, ids);
  u32 threads = static_cast<u32>(launch.block.volume());
  u32 warps = (threads + warp_size - 1) / warp_size;
  u32 registers = entry_registers(launch.device.registers, warps * warp_size);
  for (u32 rank = 0; rank < grid.cluster_ctas; ++rank) {
    ctas.push_back(std::make_unique<Cta>(*this, rank, ids[rank]));
    Cta& cta = *ctas.back();
    cta.registers.free = launch.device.registers - registers * warps * warp_size;
    for (u32 i = 0; i < warps; ++i) {
      cta.warps.push_back(std::make_unique<Warp>(cta, i, std::min<u32>(warp_size, threads - i * warp_size)));
      cta.warps.back()->registers_per_thread = registers;
      warps_.push_back(cta.warps.back().get());
    }
    cta.running_warps = warps;
  }
  running_ctas = grid.cluster_ctas;
}

Dim3 Cluster::cta_id(u32 rank) const {
  const Dim3& shape = grid.launch.cluster;
  Dim3 first = grid.first_cta(number);
  return {first.x + rank % shape.x, first.y + rank / shape.x % shape.y, first.z + rank / (shape.x * shape.y)};
}

u64 Cluster::turn(Warp& warp, u64 budget) {
  constexpr u64 eager_quantum = 4096;  // long enough not to matter, short enough to leave a loop that polls
  u64 quantum = grid.options.schedule == Schedule::random ? 1 + engine.random()() % 64 : eager_quantum;
  u64 done = warp.run(std::min(quantum, budget));
  if (warp.executed > grid.options.max_instructions)
    fault(check::Kind::livelock,
          "a warp has executed more than " + std::to_string(grid.options.max_instructions) + " instructions",
          warp.name(), {warp.cta.id, warp.index, 0, warp.fragments().empty() ? 0 : warp.fragments()[0].pc});
  return done;
}

Cluster::Outcome Cluster::run(u64 budget) {
  bool random = grid.options.schedule == Schedule::random;
  while (running_ctas) {
    if (grid.reports.stopped()) throw Stopped{};
    bool progress = false;
    std::size_t first = random ? engine.random()() % warps_.size() : next_;
    for (std::size_t i = 0; i < warps_.size() && budget; ++i) {
      std::size_t chosen = (first + i) % warps_.size();
      Warp& warp = *warps_[chosen];
      if (warp.exited() || !warp.ready()) continue;
      budget -= std::min(budget, turn(warp, budget));
      progress = true;
      next_ = chosen + 1;
      if (random) break;
    }
    if (random) progress |= engine.perform_some();
    if (!running_ctas) break;
    if (!budget) return Outcome::running;
    if (progress) continue;
    if (!engine.idle()) engine.perform_one();
    else if (any_waits_for_grid()) return Outcome::waiting;
    else report_deadlock();
  }
  // The memory of the launch outlives the CTAs: what bulk stores still write arrives before the launch ends.
  while (!engine.idle()) engine.perform_one();
  return Outcome::finished;
}

bool Cluster::any_waits_for_grid() const {
  for (const Warp* warp : warps_)
    for (const Fragment& fragment : warp->fragments())
      if (fragment.waiting.on == Waiting::On::grid) return true;
  return false;
}

void Cluster::left(Warp& warp, u32 pc) {
  warp.cluster_arrived &= warp.live();
  settle_barrier();
  if (!warp.exited()) return;
  warp.cta.registers.free += warp.registers_per_thread * warp_size;
  ++warp.cta.registers.version;
  auto unawaited = [&](u32 pc, const char* what, const std::string& why) {
    if (pc == ~0u) return;
    warn(check::Kind::not_awaited, std::string(what) + " is not awaited before its warp exits", warp.name(),
         {warp.cta.id, warp.index, 0, pc},
         "shared memory may be given to another CTA while it is still " + why + " is missing");
  };
  unawaited(warp.bulk.unawaited(), "a bulk operation", "read; cp.async.bulk.wait_group.read 0");
  unawaited(warp.copies.unawaited(), "cp.async", "written; cp.async.wait_all");
  unawaited(warp.products.empty() ? ~0u : warp.products.front().pc, "wgmma.mma_async", "read; wgmma.wait_group 0");
  if (warp.cta.running_warps == 1)
    while (!engine.idle()) engine.perform_one();  // what nobody awaited was reported; it still finds its memory
  --warp.cta.running_warps;
  for (NamedBarrier& waited : warp.cta.named)
    if (waited.everyone && waited.full(warp.cta.running_warps)) waited.complete();
  if (warp.cta.running_warps == 0) finish(warp.cta, warp, pc);
}

void Cluster::settle_barrier() {
  u32 missing = 0, arrived = 0;
  for (const Warp* warp : warps_) {
    missing += lane_count(warp->live() & ~warp->cluster_arrived);
    arrived += lane_count(warp->cluster_arrived);
  }
  if (missing || !arrived) return;
  barrier.complete();
  for (Warp* warp : warps_) warp->cluster_arrived = 0;
}

namespace {

// A CTA's shared memory goes with it, which is a write of all of it: a peer that may still use it races with the end.
// The CTA's own operations are passed over here, for those that it did not await are reported by name.
void free_shared(const Cta& cta, const Warp& last, u32 pc) {
  Cluster& cluster = cta.cluster;
  const u32 start = cluster.grid.launch.device.reserved_shared;
  if (!cluster.history || cluster.ctas.size() == 1 || cta.shared_end == start) return;
  check::Knowledge known;
  auto pass_over = [&](check::Agent agent, check::Time time) { if (agent) known.generic.learn(agent, time); };
  for (const auto& warp : cta.warps) {
    known.join(warp->view.release(warp->existing));
    pass_over(warp->bulk.reader, warp->bulk.time);
    pass_over(warp->copy_agent, warp->copy_time);
    pass_over(warp->product_agent, warp->product_time);
  }
  for (const auto& barrier : cta.mbarriers.all()) pass_over(barrier->copy_agent, barrier->copy_time);
  const check::Actor actor{last.view.agent(), last.view.now(), all_lanes, false, pc, &known};
  cluster.history->write_shared(actor, cta.rank, start, cta.shared_end - start);
}

}  // namespace

void Cluster::finish(Cta& cta, const Warp& last, u32 pc) {
  --running_ctas;
  free_shared(cta, last, pc);
  Origin origin{cta.id, Origin::unknown_warp, 0, 0, ""};
  if (cta.tensor.any_allocated()) {
    origin.pc = cta.tensor.allocated_by();
    warn(check::Kind::tensor_memory, "tensor memory is not freed before the CTA exits", "tensor memory", origin,
         "tcgen05.dealloc is missing; the next CTA of this multiprocessor would wait for ever");
  }
  for (const auto& barrier_ : cta.mbarriers.all()) {
    u32 pc = barrier_->copies ? barrier_->last_copy : barrier_->unobserved_copy;
    if (!barrier_->valid || pc == ~0u) continue;
    origin.pc = pc;
    warn(check::Kind::not_awaited, "a copy into shared memory is not awaited before the CTA exits",
         "mbarrier " + hex(barrier_->offset), origin, "nobody waited for the phase that the copy completes");
  }
}

}  // namespace sim
