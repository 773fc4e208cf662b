// Fences (PTX ISA, "membar, fence"): of the memory model, of the proxies, of mbarrier initialisation.
#include "isa/families.h"
#include "machine/cta.h"
#include "machine/grid_state.h"

namespace sim {
namespace {

// Orders earlier accesses before a later relaxed write, and an earlier relaxed read before later accesses.
Step fence(Warp& warp, const Inst&) {
  if (!warp.cluster.history) return Step::next();
  if (warp.fenced_acquire) {
    warp.view.acquire(warp.active, *warp.fenced_acquire);
    warp.fenced_acquire.reset();
  }
  warp.fenced_release = warp.view.release(warp.active);
  return Step::next();
}

Step fence_proxy_async(Warp& warp, const Inst&) {
  if (warp.cluster.history) warp.view.fence_async(warp.active);
  for (auto& cta : warp.cluster.ctas)
    for (auto& barrier : cta->mbarriers.all())
      if (barrier->init_agent == warp.view.agent()) barrier->fenced = true;
  return Step::next();
}

Step fence_mbarrier_init(Warp& warp, const Inst&) {
  for (auto& barrier : warp.cta.mbarriers.all())
    if (barrier->init_agent == warp.view.agent()) barrier->fenced = true;
  return Step::next();
}

const Row rows[] = {
    {"fence[.{sc,acq_rel}].{cta,cluster,gpu,sys}", fence, Unit::control},
    {"membar.{cta,gl,sys}", fence, Unit::control},
    {"fence.proxy.async[.{global,shared::cta,shared::cluster}]", fence_proxy_async, Unit::control},
    {"fence.mbarrier_init.release.cluster", fence_mbarrier_init, Unit::control},
};

}  // namespace

std::span<const Row> fence_rows() { return rows; }

}  // namespace sim
