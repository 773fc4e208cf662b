// Strong accesses to global memory.
#include "isa/strong.h"

#include "machine/cta.h"
#include "machine/grid_state.h"

namespace sim {

Order order(const Spelling& spelling) {
  if (spelling.has("acq_rel") || spelling.has("sc")) return Order::acq_rel;
  if (spelling.has("acquire")) return Order::acquire;
  if (spelling.has("release")) return Order::release;
  if (spelling.has("relaxed") || spelling.has("volatile")) return Order::relaxed;
  return Order::weak;
}

std::optional<u64> polls(Warp& warp, u64 address) {
  u64 version = __atomic_load_n(&warp.cluster.grid.version, __ATOMIC_ACQUIRE);
  Warp::Poll now{warp.pc(), address, version};
  bool same = warp.poll.pc == now.pc && warp.poll.address == now.address && warp.poll.version == now.version;
  warp.poll = same ? Warp::Poll{} : now;
  return same ? std::optional(version) : std::nullopt;
}

void before_strong_write(Warp& warp, const Operand& address, Order order) {
  Cluster& cluster = warp.cluster;
  if (!cluster.history) return;
  bool releases = order == Order::release || order == Order::acq_rel;
  if (!releases && !warp.fenced_release) return;
  check::Knowledge passed = releases ? warp.view.release(warp.active) : *warp.fenced_release;
  for (Mask rest = warp.active; rest; rest &= rest - 1)
    cluster.grid.publish(warp.address(address, __builtin_ctz(rest)), cluster.number, passed);
}

void after_strong_read(Warp& warp, const Operand& address, Order order) {
  Cluster& cluster = warp.cluster;
  if (!cluster.history) return;
  check::Knowledge learnt;
  bool any = false;
  for (Mask rest = warp.active; rest; rest &= rest - 1)
    any |= cluster.grid.observe(warp.address(address, __builtin_ctz(rest)), cluster.number, learnt);
  if (!any) return;
  if (order == Order::acquire || order == Order::acq_rel) {
    warp.view.acquire(warp.active, learnt);
  } else {
    if (!warp.fenced_acquire) warp.fenced_acquire.emplace();
    warp.fenced_acquire->join(learnt);
  }
}

}  // namespace sim
