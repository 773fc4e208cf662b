// The report of a deadlock: what every warp waits for, and the circle.
#include <algorithm>
#include <map>

#include "machine/grid_state.h"

namespace sim {

namespace {

std::string last(const Grid& grid, const Mbarrier::By& by) {
  return by.pc == ~0u ? "nobody yet" : grid.line_of(by.pc) + " (warp " + std::to_string(by.warp) + ")";
}

Mbarrier* awaited_mbarrier(Cluster& cluster, const Waiting& waiting) {
  return cluster.ctas[waiting.object >> 24]->mbarriers.find(waiting.object & 0xFFFFFF);
}

std::string describe_mbarrier(Cluster& cluster, const Waiting& waiting) {
  const Grid& grid = cluster.grid;
  Mbarrier* barrier = awaited_mbarrier(cluster, waiting);
  std::string text = "mbarrier " + hex(waiting.object) + " parity " + std::to_string(waiting.detail);
  if (!barrier) return text;
  text += ": phase " + std::to_string(barrier->phase);
  if (barrier->pending)
    text += ", " + std::to_string(barrier->pending) + " of " + std::to_string(barrier->count) +
            " arrivals missing; last arriver " + last(grid, barrier->arriver);
  if (barrier->tx > 0)
    text += ", " + std::to_string(barrier->tx) + " bytes missing; announced " + last(grid, barrier->announcer);
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
             " threads arrived; last " +
             (barrier.last_pc == ~0u ? "nobody yet" : cluster.grid.line_of(barrier.last_pc));
    }
    case On::cluster_barrier: return "barrier.cluster: some thread of the cluster has not arrived";
    case On::lanes: return "its other lanes (running: " + hex(warp.live()) + ", here: " + hex(waiting.object) + ")";
    case On::tensor_memory: return number + " columns of tensor memory";
    case On::register_pool:
      return number + " registers a thread (setmaxnreg); " + std::to_string(warp.cta.registers.free) + " free";
    case On::bulk_group: return "a bulk group of its own";
    case On::wgmma_group: return "a wgmma group";
    case On::grid: return "a value in global memory";
  }
  return "";
}

// A step of the circle: a warp, what it waits for, and a warp that should have acted.
struct Wait {
  const Warp* warp;
  std::string object;
  const Warp* other;
};

bool waits_there(const Warp& warp, u32 barrier) {
  return std::ranges::any_of(warp.fragments(), [&](const Fragment& fragment) {
    return fragment.waiting.on == Waiting::On::named_barrier && fragment.waiting.object == barrier;
  });
}

const Warp* find(const Cluster& cluster, const Mbarrier::By& by) {
  if (by.pc == ~0u) return nullptr;
  for (const auto& cta : cluster.ctas)
    if (cta->id.x == by.cta.x && cta->id.y == by.cta.y && cta->id.z == by.cta.z && by.warp < cta->warps.size())
      return cta->warps[by.warp].get();
  return nullptr;
}

// Of an mbarrier those who arrived at it (or announced bytes) last: who else would have is not known. Of a barrier for
// all threads, and of a cluster's, all that have not arrived.
std::vector<Wait> waits(Cluster& cluster, const Warp& warp) {
  std::vector<Wait> found;
  auto add = [&](std::string object, const Warp* other) {
    if (other && other != &warp && !other->exited()) found.push_back({&warp, std::move(object), other});
  };
  for (const Fragment& fragment : warp.fragments()) {
    const Waiting& waiting = fragment.waiting;
    if (waiting.on == Waiting::On::mbarrier) {
      const Mbarrier* barrier = awaited_mbarrier(cluster, waiting);
      if (barrier && barrier->pending) add("mbarrier " + hex(waiting.object), find(cluster, barrier->arriver));
      if (barrier && barrier->tx > 0) add("mbarrier " + hex(waiting.object), find(cluster, barrier->announcer));
    } else if (waiting.on == Waiting::On::named_barrier) {
      if (warp.cta.named[waiting.object].expected != warp.cta.warps.size() * warp_size) continue;
      for (const auto& other : warp.cta.warps)
        if (!waits_there(*other, waiting.object)) add("barrier " + std::to_string(waiting.object), other.get());
    } else if (waiting.on == Waiting::On::cluster_barrier) {
      for (const auto& cta : cluster.ctas)
        for (const auto& other : cta->warps)
          if (other->live() & ~other->cluster_arrived) add("barrier.cluster", other.get());
    }
  }
  return found;
}

// Follows waits from the last of the path; true if the path then ends in a circle, which alone is kept.
bool close_circle(Cluster& cluster, const Warp& from, std::vector<Wait>& path, std::vector<const Warp*>& seen) {
  if (std::ranges::find(seen, &from) != seen.end()) {
    auto start = std::ranges::find(path, &from, &Wait::warp);
    if (start == path.end()) return false;
    path.erase(path.begin(), start);
    return true;
  }
  seen.push_back(&from);
  for (Wait& wait : waits(cluster, from)) {
    path.push_back(wait);
    if (close_circle(cluster, *wait.other, path, seen)) return true;
    path.pop_back();
  }
  return false;
}

// "cycle   warp 0 -> mbarrier 0x400 -> warp 1 -> mbarrier 0x408 -> warp 0 (by last arrivals)", or nothing.
std::string cycle(Cluster& cluster) {
  auto name = [&](const Warp& warp) {
    return warp.name() + (cluster.ctas.size() > 1 ? " of rank " + std::to_string(warp.cta.rank) : "");
  };
  std::vector<const Warp*> seen;
  for (const auto& cta : cluster.ctas)
    for (const auto& warp : cta->warps) {
      std::vector<Wait> path;
      if (!close_circle(cluster, *warp, path, seen)) continue;
      std::string text = "cycle   " + name(*path.front().warp);
      bool guessed = false;
      for (const Wait& wait : path) {
        text += " -> " + wait.object + " -> " + name(*wait.other);
        guessed |= wait.object.starts_with("mbarrier");
      }
      return text + (guessed ? " (by last arrivals)" : "");
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
        reason += (reason.empty() ? "" : " | ") + grid.line_of(fragment.pc) + " waits for " +
                  describe(*this, *warp, fragment.waiting);
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
  report.second_role = "waits";
  report.lines = waiting_lines();
  if (std::string circle = cycle(*this); !circle.empty()) report.lines.push_back(std::move(circle));
  report.fatal = true;
  for (const Warp* warp : warps_)
    for (const Fragment& fragment : warp->fragments()) {
      bool registers = fragment.waiting.on == Waiting::On::register_pool && report.kind != check::Kind::registers;
      if (registers) {
        report.kind = check::Kind::registers;
        report.title = "setmaxnreg waits for registers that no warp will give back";
      }
      if (registers || report.second.pc == check::Site::no_pc) report.second = {warp->name(), fragment.pc};
    }
  grid.reports.add(std::move(report));
  throw Stopped{};
}

}  // namespace sim
