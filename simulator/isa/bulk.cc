// Pieces that bulk copies share.
#include "isa/bulk.h"

namespace sim {

Signal signal(Cluster& cluster, u64 address, const Issue& issue) {
  Mbarrier& barrier = cluster.mbarrier(address, issue.origin, issue.known.get(), true);
  Cta& cta = *cluster.ctas[address >> 24];
  cluster.copy_agent(barrier, cta);
  return {&cta, &barrier};
}

u8* read_global(Cluster& cluster, u64 address, u64 bytes, const check::Actor& actor, const Issue& issue) {
  u8* memory = cluster.global(address, bytes, 1, false, issue.origin);
  if (cluster.history) cluster.history->read_global(actor, address, bytes);
  return memory;
}

u8* write_global(Cluster& cluster, u64 address, u64 bytes, const check::Actor& actor, const Issue& issue) {
  u8* memory = cluster.global(address, bytes, 1, true, issue.origin);
  if (cluster.history) cluster.history->write_global(actor, address, bytes);
  return memory;
}

void prepare_bulk_agents(Warp& warp) {
  if (warp.bulk.reader || !warp.cluster.history) return;
  warp.bulk.reader = warp.cluster.history->agent(check::AgentKind::bulk_store, warp.cta.rank, warp.index);
  warp.bulk.writer = warp.cluster.history->agent(check::AgentKind::bulk_store, warp.cta.rank, warp.index);
}

void require_ctas(Cluster& cluster, u32 mask, const Issue& issue) {
  if (mask == 0 || mask >> cluster.ctas.size())
    cluster.fault(check::Kind::undefined, "multicast to CTAs that the cluster does not have",
                  "mask " + hex(mask) + ", " + std::to_string(cluster.ctas.size()) + " CTAs", issue.origin);
}

void require_multiple_of_16(Cluster& cluster, u64 value, const char* what, const Issue& issue) {
  if (value % 16)
    cluster.fault(check::Kind::misaligned, std::string("a bulk copy's ") + what + " must be a multiple of 16 bytes",
                  hex(value), issue.origin);
}

}  // namespace sim
