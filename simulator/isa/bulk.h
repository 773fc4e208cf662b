// Pieces that bulk copies share: moving bytes between spaces with the checks each side needs.
#pragma once

#include "isa/issue.h"

namespace sim {

// A copy's signal: complete_tx on an mbarrier, whose agent the copy's accesses belong to.
struct Signal {
  Cta* cta;
  Mbarrier* barrier;
};
Signal signal(Cluster& cluster, u64 address, const Issue& issue);

// Global memory, bounds-checked, as one contiguous piece.
u8* read_global(Cluster& cluster, u64 address, u64 bytes, const check::Actor& actor, const Issue& issue);
u8* write_global(Cluster& cluster, u64 address, u64 bytes, const check::Actor& actor, const Issue& issue);

// Groups of this warp's bulk stores and their agents.
void prepare_bulk_agents(Warp& warp);

// A multicast's mask names CTAs of the cluster, at least one.
void require_ctas(Cluster& cluster, u32 mask, const Issue& issue);

// Bulk operations need sizes and addresses in multiples of 16 bytes.
void require_multiple_of_16(Cluster& cluster, u64 value, const char* what, const Issue& issue);

}  // namespace sim
