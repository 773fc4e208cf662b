// Barriers of a CTA and of a cluster (PTX ISA, "bar, barrier" and "barrier.cluster").
#include "isa/families.h"
#include "machine/cta.h"
#include "machine/grid_state.h"

namespace sim {
namespace {

// What these lanes pass on; nothing is recorded when races are not checked.
check::Knowledge release(Warp& warp) {
  return warp.cluster.history ? warp.view.release(warp.active) : check::Knowledge{};
}

void learn(Warp& warp, const check::Knowledge& knowledge) {
  if (!warp.cluster.history) return;
  warp.view.acquire(warp.active, knowledge);
}

NamedBarrier& arrive(Warp& warp, const Inst& inst) {
  Cluster& cluster = warp.cluster;
  u32 number = static_cast<u32>(warp.value(inst.op[0], warp.first_lane()));
  auto where = [&] { return "barrier " + std::to_string(number); };
  if (number >= 16)
    cluster.fault(check::Kind::barrier, "barriers are numbered 0 to 15", where(), warp.origin());
  NamedBarrier& barrier = warp.cta.named[number];
  const bool everyone = inst.ops == 1;
  u32 expected = everyone ? static_cast<u32>(warp.cta.warps.size()) * warp_size
                          : static_cast<u32>(warp.value(inst.op[1], warp.first_lane()));
  if (expected == 0 || expected % warp_size)
    cluster.fault(check::Kind::barrier, "the number of threads must be a positive multiple of 32", where(),
                  warp.origin(), "given " + std::to_string(expected));
  if (barrier.arrived && barrier.expected != expected)
    cluster.fault(check::Kind::barrier, "threads of one barrier expect different numbers of threads", where(),
                  warp.origin(),
                  std::to_string(expected) + " here, " + std::to_string(barrier.expected) + " at " +
                      cluster.grid.line_of(barrier.last_pc));
  barrier.expected = expected;
  barrier.everyone = everyone;
  barrier.arrived += warp_size;  // a warp counts as a whole
  barrier.last_pc = warp.pc();
  if (barrier.arrived > expected)
    cluster.fault(check::Kind::barrier, "more threads arrive at a barrier than it expects", where(), warp.origin());
  barrier.arriving.join(release(warp));
  return barrier;
}

// A warp arrives as a whole once all its running lanes are there.
Step bar_sync(Warp& warp, const Inst& inst) {
  Fragment& fragment = warp.fragment();
  if (!fragment.ticket) {
    if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
    NamedBarrier& barrier = arrive(warp, inst);
    fragment.ticket = barrier.generation + 1;
    if (barrier.full(warp.cta.running_warps)) barrier.complete();
  }
  u32 number = static_cast<u32>(warp.value(inst.op[0], warp.first_lane()));
  NamedBarrier& barrier = warp.cta.named[number];
  if (barrier.generation < fragment.ticket) return warp.wait(Waiting::On::named_barrier, barrier.generation, number);
  fragment.ticket = 0;
  learn(warp, barrier.completed);
  return Step::next();
}

Step bar_arrive(Warp& warp, const Inst& inst) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  NamedBarrier& barrier = arrive(warp, inst);
  if (barrier.full(warp.cta.running_warps)) barrier.complete();
  return Step::next();
}

// fence.mbarrier_init and a relaxed barrier.cluster.arrive publish the mbarriers that this warp has initialised.
void publish_mbarriers(Warp& warp) {
  for (auto& barrier : warp.cta.mbarriers.all())
    if (barrier->init_agent == warp.view.agent() && barrier->fenced && !barrier->published)
      barrier->published = warp.cluster.barrier.generation + 1;
}

template <bool releases> Step cluster_arrive(Warp& warp, const Inst& inst) {
  if (inst.field[0] && !warp.gathered(all_lanes)) return warp.wait_for_lanes();
  Cluster& cluster = warp.cluster;
  if (warp.cluster_arrived & warp.active)
    cluster.fault(check::Kind::barrier, "a thread arrives twice at barrier.cluster without waiting between",
                  "barrier.cluster", warp.origin());
  warp.cluster_ticket = cluster.barrier.generation + 1;
  warp.cluster_arrived |= warp.active;
  publish_mbarriers(warp);
  if (releases) cluster.barrier.arriving.join(release(warp));
  cluster.settle_barrier();
  return Step::next();
}

template <bool acquires> Step cluster_wait(Warp& warp, const Inst& inst) {
  if (inst.field[0] && !warp.gathered(all_lanes)) return warp.wait_for_lanes();
  Cluster& cluster = warp.cluster;
  if (warp.cluster_ticket == 0)
    cluster.fault(check::Kind::barrier, "barrier.cluster.wait without barrier.cluster.arrive before it",
                  "barrier.cluster", warp.origin());
  if (cluster.barrier.generation < warp.cluster_ticket)
    return warp.wait(Waiting::On::cluster_barrier, cluster.barrier.generation);
  if (acquires) learn(warp, cluster.barrier.completed);
  return Step::next();
}

template <Execute body> Execute bind_aligned(Binding& binding) {
  binding.inst.field[0] = binding.spelling.has("aligned");
  return body;
}

const Row rows[] = {
    {"{bar,barrier}.sync                                    a:u32[, b:u32]", bar_sync, Unit::control},
    {"{bar,barrier}.cta.sync[.aligned]                      a:u32[, b:u32]", bar_sync, Unit::control},
    {"{bar,barrier}.arrive                                  a:u32, b:u32", bar_arrive, Unit::control},
    {"{bar,barrier}.cta.arrive[.aligned]                    a:u32, b:u32", bar_arrive, Unit::control},
    {"barrier.{sync,arrive}.aligned                         a:u32[, b:u32]", Bind([](Binding& binding) -> Execute {
       return binding.spelling.has("sync") ? bar_sync : bar_arrive;
     }), Unit::control},
    {"barrier.cluster.arrive[.release][.aligned]", bind_aligned<cluster_arrive<true>>, Unit::control},
    {"barrier.cluster.arrive.relaxed[.aligned]", bind_aligned<cluster_arrive<false>>, Unit::control},
    {"barrier.cluster.wait[.acquire][.aligned]", bind_aligned<cluster_wait<true>>, Unit::control},
};

}  // namespace

std::span<const Row> barrier_rows() { return rows; }

}  // namespace sim
