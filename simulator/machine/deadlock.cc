// The report of a deadlock: what every warp waits for, and the circle.
#include <algorithm>
#include <map>

#include "machine/grid_state.h"

namespace sim {

namespace {

std::string line_of(const Grid& grid, u32 pc) { return pc == ~0u ? "nobody yet" : grid.line_of(pc); }

std::string describe_mbarrier(Cluster& cluster, const Waiting& waiting) {
  const Grid& grid = cluster.grid;
  Cta& cta = *cluster.ctas[waiting.object >> 24];
  Mbarrier* barrier = cta.mbarriers.find(waiting.object & 0xFFFFFF);
  std::string text = "mbarrier " + hex(waiting.object) + " parity " + std::to_string(waiting.detail);
  if (!barrier) return text;
  text += ": phase " + std::to_string(barrier->phase);
  if (barrier->pending) {
    text += ", " + std::to_string(barrier->pending) + " of " + std::to_string(barrier->count) + " arrivals missing; last arriver " +
            line_of(grid, barrier->arriver_pc);
  }
  if (barrier->tx > 0)
    text += ", " + std::to_string(barrier->tx) + " bytes missing; announced " + line_of(grid, barrier->announcer_pc);
  if (barrier->tx < 0) text += ", " + std::to_string(-barrier->tx) + " bytes more than announced";
  return text;
}

std::string describe(Cluster& cluster, const Warp& warp, const Waiting& waiting) {
  using On = Waiting::On;
  std::string number = std::to_string(waiting.object);
  switch (waiting.on) {
    case On::nothing: return "nothing";
    case On::mbarrier: return describe_mbarrier(cluster, waiting);
    case On::named_barrier: {
      const NamedBarrier& barrier = warp.cta.named[waiting.object];
      return "barrier " + number + ": " + std::to_string(barrier.arrived) + " of " + std::to_string(barrier.expected) +
             " threads arrived; last " + line_of(cluster.grid, barrier.last_pc);
    }
    case On::cluster_barrier: return "barrier.cluster: some thread of the cluster has not arrived";
    case On::lanes: return "its other lanes (running: " + hex(warp.live()) + ", here: " + hex(waiting.object) + ")";
    case On::tensor_memory: return number + " columns of tensor memory";
    case On::register_pool: return number + " registers a thread (setmaxnreg); " + std::to_string(warp.cta.registers.free) + " free";
    case On::bulk_group: return "a bulk group of its own";
    case On::wgmma_group: return "a wgmma group";
    case On::grid: return "a value in global memory";
  }
  return "";
}

}  // namespace

// Warps of one CTA that wait for the same thing at the same place share a line.
std::vector<std::string> Cluster::waiting_lines() {
  std::vector<std::string> lines;
  for (const auto& cta : ctas) {
    std::map<std::string, std::string> warps_by_reason;
    std::vector<std::string> order;
    for (const auto& warp : cta->warps) {
      std::string reason = warp->exited() ? "exited" : "";
      for (const Fragment& fragment : warp->fragments())
        reason += (reason.empty() ? "" : " | ") + grid.line_of(fragment.pc) + " waits for " + describe(*this, *warp, fragment.waiting);
      std::string& who = warps_by_reason[reason];
      if (who.empty()) order.push_back(reason);
      who += (who.empty() ? "" : ",") + std::to_string(warp->index);
    }
    Dim3 id = cta->id;
    lines.push_back("CTA (" + std::to_string(id.x) + "," + std::to_string(id.y) + "," + std::to_string(id.z) + ")");
    for (const std::string& reason : order) lines.push_back("  warp " + warps_by_reason[reason] + "  " + reason);
  }
  return lines;
}

void Cluster::report_deadlock() {
  check::Report report{};
  report.kind = check::Kind::deadlock;
  report.title = "no warp can run, no asynchronous operation is pending";
  report.cta = ctas[0]->id;
  report.lines = waiting_lines();
  report.fatal = true;
  for (const Warp* warp : warps_)
    for (const Fragment& fragment : warp->fragments()) {
      if (fragment.waiting.on == Waiting::On::register_pool) {
        report.kind = check::Kind::registers;
        report.title = "setmaxnreg waits for registers that no warp will give back";
      }
      if (report.second.pc == check::Site::no_pc) report.second = {warp->name(), fragment.pc};
    }
  grid.reports.add(std::move(report));
  throw Stopped{};
}

}  // namespace sim
