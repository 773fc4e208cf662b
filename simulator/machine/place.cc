// Where a cluster's accesses go, and the reports when they may not go there.
#include "machine/grid_state.h"

namespace sim {

namespace {

check::Report finding(check::Kind kind, std::string title, std::string where, const Origin& origin, std::string why) {
  check::Report report{};
  report.kind = kind;
  report.title = std::move(title);
  report.cta = origin.cta;
  report.where = std::move(where);
  report.second = origin.site();
  report.second_role = "by";
  report.why = std::move(why);
  return report;
}

}  // namespace

void Cluster::warn(check::Kind kind, std::string title, std::string where, const Origin& origin, std::string why) {
  grid.reports.add(finding(kind, std::move(title), std::move(where), origin, std::move(why)));
}

void Cluster::fault(check::Kind kind, std::string title, std::string where, const Origin& origin, std::string why) {
  check::Report report = finding(kind, std::move(title), std::move(where), origin, std::move(why));
  report.fatal = true;
  grid.reports.add(std::move(report));
  throw Stopped{};
}

SharedPlace Cluster::shared(u64 address, u32 bytes, u32 align, const Origin& origin) {
  u64 rank = address >> 24;
  u32 offset = static_cast<u32>(address) & 0xFFFFFF;
  auto where = [&] { return "shared " + hex(address) + ", " + std::to_string(bytes) + " bytes"; };
  if (rank >= ctas.size())
    fault(check::Kind::out_of_bounds,
          "shared address of CTA " + std::to_string(rank) + " in a cluster of " + std::to_string(ctas.size()), where(),
          origin);
  Cta& cta = *ctas[rank];
  if (offset < grid.launch.device.reserved_shared || u64{offset} + bytes > cta.shared_end)
    fault(check::Kind::out_of_bounds, "access outside the CTA's shared memory", where(), origin,
          "the CTA has " + hex(grid.launch.device.reserved_shared) + " to " + hex(cta.shared_end) +
              " (below: reserved by the system)");
  if (offset % align)
    fault(check::Kind::misaligned, "shared access must be aligned to " + std::to_string(align) + " bytes", where(),
          origin);
  if (!cta.running_warps)
    fault(check::Kind::out_of_bounds, "access to the shared memory of a CTA that has exited", where(), origin,
          "a CTA must not exit while others of its cluster may reach its shared memory (barrier.cluster)");
  return {&cta, offset};
}

void Cluster::refuse_overlapping(const SharedPlace& place, u32 bytes, bool write, const Origin& origin) {
  for (const auto& other : place.cta->mbarriers.all())
    if (other->valid && place.offset < other->offset + 8 && other->offset < place.offset + bytes)
      fault(check::Kind::barrier, std::string(write ? "store to" : "load from") + " the place of an mbarrier",
            "shared " + hex(place.cta->shared_address(place.offset)) + ", " + std::to_string(bytes) + " bytes", origin,
            "mbarrier.init of shared " + hex(place.cta->shared_address(other->offset)) + " at " +
                grid.line_of(other->init_pc) + "; mbarrier.inval would free the place");
}

u8* Cluster::global(u64 address, u64 bytes, u32 align, bool write, const Origin& origin) {
  const Allocation* allocation = last_allocation_;
  if (!allocation || address - allocation->address >= allocation->bytes ||
      bytes > allocation->bytes - (address - allocation->address)) {
    allocation = grid.memory.find(address, bytes);
    if (!allocation)
      fault(check::Kind::out_of_bounds, "access outside the launch's global memory",
            "global " + hex(address) + ", " + std::to_string(bytes) + " bytes", origin, grid.memory.nearest(address));
    last_allocation_ = allocation;
  }
  if (write && !allocation->writable)
    fault(check::Kind::out_of_bounds, "write to read-only global memory", "global " + hex(address), origin);
  if (address % align)
    fault(check::Kind::misaligned, "global access must be aligned to " + std::to_string(align) + " bytes",
          "global " + hex(address), origin);
  return reinterpret_cast<u8*>(address);
}

Mbarrier& Cluster::mbarrier(u64 address, const Origin& origin, const check::Knowledge* known, bool async) {
  SharedPlace place = shared(address, 8, 8, origin);
  Mbarrier* barrier_ = place.cta->mbarriers.find(place.offset);
  auto where = [&] { return "mbarrier, shared " + hex(address); };
  if (!barrier_ || !barrier_->valid)
    fault(check::Kind::uninitialised, "mbarrier is used before mbarrier.init", where(), origin);
  if (!history || !known) return *barrier_;
  if (async && !barrier_->fenced) {
    warn(check::Kind::race, "mbarrier.init is not made visible to the async proxy and the cluster", where(), origin,
         "fence.mbarrier_init.release.cluster (or fence.proxy.async) must follow mbarrier.init at " +
             grid.line_of(barrier_->init_pc));
    barrier_->fenced = true;
  }
  bool published = barrier_->published && barrier.generation >= barrier_->published;
  if (!published && !known->generic.covers(barrier_->init_agent, barrier_->init_lanes, barrier_->init_time) &&
      !grid.reports.seen(check::Kind::race, barrier_->init_pc, origin.pc))
    warn(check::Kind::race, "mbarrier is used by a thread that mbarrier.init is not ordered before", where(), origin,
         "initialised at " + grid.line_of(barrier_->init_pc) + "; no barrier stands between");
  return *barrier_;
}

check::Agent Cluster::copy_agent(Mbarrier& barrier_, Cta& cta) {
  if (!barrier_.copy_agent && history)
    barrier_.copy_agent = history->agent(check::AgentKind::tensor_copy, cta.rank, cta.shared_address(barrier_.offset));
  return barrier_.copy_agent;
}

void Cluster::trace(const Mbarrier& barrier_, const Cta& cta, const std::string& event) {
  const Options& options = grid.options;
  if (options.trace_mbarrier != i64{barrier_.offset} || options.trace_cta != i64{cta.rank} ||
      options.trace_cluster != i64{number})
    return;
  grid.add_trace(event + "  phase " + std::to_string(barrier_.phase) + ", " + std::to_string(barrier_.pending) +
                 " of " + std::to_string(barrier_.count) + " arrivals missing, tx " + std::to_string(barrier_.tx));
}

void Cluster::arrive(Mbarrier& barrier_, Cta& cta, u32 count, const check::Knowledge& passed, const Origin& origin) {
  if (count > barrier_.pending)
    fault(check::Kind::barrier, "more arrivals than the mbarrier expects in this phase",
          "mbarrier, shared " + hex(cta.shared_address(barrier_.offset)), origin,
          std::to_string(count) + " arrivals, " + std::to_string(barrier_.pending) + " of " +
              std::to_string(barrier_.count) + " still pending");
  barrier_.arriver = {origin.pc, origin.cta, origin.warp};
  barrier_.arriving.join(passed);
  barrier_.pending -= count;
  barrier_.settle();
  trace(barrier_, cta, grid.line_of(origin.pc) + " arrive by " + origin.site().who);
}

void Cluster::expect_tx(Mbarrier& barrier_, u32 bytes, const Origin& origin) {
  barrier_.tx += bytes;
  barrier_.announcer = {origin.pc, origin.cta, origin.warp};
  if (barrier_.tx > Mbarrier::max_tx)
    fault(check::Kind::barrier, "the mbarrier's tx-count overflows", "mbarrier " + hex(barrier_.offset), origin,
          std::to_string(barrier_.tx) + " bytes announced, at most " + std::to_string(Mbarrier::max_tx) + " can be");
}

void Cluster::complete_tx(Mbarrier& barrier_, Cta& cta, u32 bytes, const Origin& origin) {
  barrier_.tx -= bytes;
  if (barrier_.tx < -Mbarrier::max_tx)
    fault(check::Kind::barrier, "the mbarrier's tx-count underflows", "mbarrier " + hex(barrier_.offset), origin,
          "more bytes arrived than were announced");
  barrier_.copies = true;
  barrier_.last_copy = origin.pc;
  barrier_.settle();
  trace(barrier_, cta, grid.line_of(origin.pc) + " complete_tx of " + std::to_string(bytes) + " bytes");
}

}  // namespace sim
