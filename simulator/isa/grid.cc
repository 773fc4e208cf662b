// Instructions about the launch and its resources: setmaxnreg, clusterlaunchcontrol, griddepcontrol, prefetches (PTX
// ISA, "Miscellaneous", "Parallel Synchronization and Communication", "Data Movement and Conversion").
#include <cstring>

#include "isa/families.h"
#include "isa/issue.h"
#include "isa/lanes.h"

namespace sim {
namespace {

// A warp's registers and the pool of those that no warp of the CTA holds.
template <bool more> Step setmaxnreg(Warp& warp, const Inst& inst) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  const u32 wanted = inst.field[0], held = warp.registers_per_thread;
  // What the warp entered with is ptxas's choice; the even share assumed here may be above what it then asks for.
  if (warp.registers_counted && (more ? wanted < held : wanted > held))
    warp.cluster.fault(check::Kind::registers,
                       more ? "setmaxnreg.inc to fewer registers than the warp holds"
                            : "setmaxnreg.dec to more registers than the warp holds",
                       warp.name(), warp.origin(),
                       std::to_string(wanted) + " wanted, " + std::to_string(held) + " held a thread");
  Cta::RegisterPool& pool = warp.cta.registers;
  if (wanted > held) {
    const u32 missing = (wanted - held) * warp_size;
    if (pool.free < missing) return warp.wait(Waiting::On::register_pool, pool.version, wanted);
    pool.free -= missing;
  } else {
    pool.free += (held - wanted) * warp_size;
    ++pool.version;
  }
  warp.registers_per_thread = wanted;
  warp.registers_counted = true;
  return Step::next();
}

Execute bind_setmaxnreg(Binding& binding) {
  const i64 count = binding.op[0].offset;
  if (count < 24 || count > 256 || count % 8)
    binding.refuse("the count of registers is " + std::to_string(count) +
                   ": it must be a multiple of 8 from 24 to 256");
  binding.inst.field[0] = static_cast<u32>(count);
  return binding.spelling.has("inc") ? setmaxnreg<true> : setmaxnreg<false>;
}

// What try_cancel answers; the ISA keeps the form opaque, so this one is ours.
struct Response {
  u32 canceled, x, y, z;
};
static_assert(sizeof(Response) == sizeof(u128));

Response take_cluster(Grid& grid) {
  const i64 taken = grid.take_cluster();
  if (taken < 0) return {};
  const Dim3 first = grid.first_cta(static_cast<u32>(taken));
  return {1, first.x, first.y, first.z};
}

void answer(Cluster& cluster, const Response& response, u64 to, u64 signal, const Issue& made) {
  Mbarrier& barrier = cluster.mbarrier(signal, made.origin, made.known.get(), true);
  SharedPlace place = cluster.shared(to, sizeof response, sizeof response, made.origin);
  if (cluster.history) {
    const u32 rank = place.cta->rank, signalled = place.cta->shared_address(barrier.offset);
    if (!barrier.copy_agent)
      barrier.copy_agent = cluster.history->agent(check::AgentKind::work_steal, rank, signalled);
    const check::Actor actor = made.actor(barrier.copy_agent, barrier.copy_time);
    cluster.history->write_shared(actor, rank, place.offset, sizeof response);
  }
  std::memcpy(place.cta->shared(place.offset), &response, sizeof response);
  cluster.complete_tx(barrier, *place.cta, sizeof response, made.origin);
}

// The cluster that would have started next does not; whoever asked does its work.
template <bool multicast> Step try_cancel(Warp& warp, const Inst& inst) {
  const Issue made = issue(warp, "clusterlaunchcontrol");
  Cluster& cluster = warp.cluster;
  const u64 to = warp.address(inst.op[0], made.lane), signal = warp.address(inst.op[1], made.lane);
  for (u64 address : {to, signal})
    if (address >> 24 != warp.cta.rank)
      cluster.fault(check::Kind::out_of_bounds, "clusterlaunchcontrol.try_cancel takes addresses of its own CTA",
                    "shared " + hex(address), made.origin);
  const u32 own = warp.cta.rank;
  cluster.engine.submit([=, &cluster] {
    const Response response = take_cluster(cluster.grid);
    for (const auto& cta : cluster.ctas)
      if (multicast || cta->rank == own)
        answer(cluster, response, cta->shared_address(to & 0xFFFFFF), cta->shared_address(signal & 0xFFFFFF), made);
  });
  return Step::next();
}

constexpr auto word = [](u128 response, u32 index) { return static_cast<u32>(response >> (32 * index)); };

Execute bind_first_ctaid(Binding& binding) {
  const std::string_view dimension = binding.spelling.starting("get_first_ctaid::");
  if (dimension.ends_with('x')) return lane<u128>([](u128 response) { return word(response, 1); });
  if (dimension.ends_with('y')) return lane<u128>([](u128 response) { return word(response, 2); });
  return lane<u128>([](u128 response) { return word(response, 3); });
}

Step first_ctaid(Warp& warp, const Inst& inst) {
  const u128* response = warp.in<u128>(inst.op[4]);
  for (Mask rest = warp.active; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    for (u32 i = 0; i < 4; ++i) warp.out<u32>(inst.op[i])[lane] = i < 3 ? word(response[lane], i + 1) : 0;
  }
  return Step::next();
}

Execute bind_first_ctaid_vector(Binding& binding) {
  if (binding.group[0] != 4)
    binding.refuse("the result is a vector of 4 registers; got " + std::to_string(binding.group[0]));
  return first_ctaid;
}

// Grids run one after another here: what griddepcontrol.wait waits for has happened, and launch_dependents only lets it
// happen earlier. There are no caches, so a prefetch brings nothing nearer.
Step nothing(Warp&, const Inst&) { return Step::next(); }

#define CLC "clusterlaunchcontrol."
#define TRY_CANCEL CLC "try_cancel.async.shared::cta.mbarrier::complete_tx::bytes"
const Row rows[] = {
    {"setmaxnreg.{inc,dec}.sync.aligned.u32                       #n", bind_setmaxnreg, Unit::control},
    {"griddepcontrol.{launch_dependents,wait}", nothing, Unit::control},
    {TRY_CANCEL ".b128                                            [a], [b]", try_cancel<false>, Unit::memory},
    {TRY_CANCEL ".multicast::cluster::all.b128                    [a], [b]", try_cancel<true>, Unit::memory},
    {CLC "query_cancel.is_canceled.pred.b128                      d:pred, a",
     lane<u128>([](u128 response) { return word(response, 0) != 0; }), Unit::alu},
    {CLC "query_cancel.get_first_ctaid::{x,y,z}.b32.b128          d:before, a", bind_first_ctaid, Unit::alu},
    {CLC "query_cancel.get_first_ctaid.v4.b32.b128                {d:before}, a", bind_first_ctaid_vector, Unit::alu},
    {"prefetch[.{global,local}].{L1,L2}                           [a]", nothing, Unit::memory},
    {"prefetch.global.L2::{evict_last,evict_normal}               [a]", nothing, Unit::memory},
    {"prefetchu.L1                                                [a]", nothing, Unit::memory},
    {"prefetch[.{const,param}].tensormap                          [a]", nothing, Unit::memory},
    {"cp.async.bulk.prefetch.L2.global[.L2::cache_hint]           [a], n:u32[L2::cache_hint, p:b64]",
     nothing, Unit::memory},
    {"cp.async.bulk.prefetch.tensor.{1d,2d,3d,4d,5d}.L2.global[.tile][.L2::cache_hint]"
     "  [t, {c}][L2::cache_hint, p:b64]",
     nothing, Unit::memory},
};
#undef TRY_CANCEL
#undef CLC

}  // namespace

std::span<const Row> grid_rows() { return rows; }

}  // namespace sim
