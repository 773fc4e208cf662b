// Who the agents of a cluster are, in words.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "check/happens_before.h"

namespace sim::check {

// Read by other clusters' reports while the own cluster adds to it.
class Agents {
 public:
  explicit Agents(std::vector<Dim3> cta_ids);
  Agent add(AgentKind kind, u32 cta, u32 index);
  std::string noun(Agent agent) const;  // "a tensor copy"
  // "warp 3 lanes 0-31"; `issuer` (time 0: unknown) adds to asynchronous ones: "tensor copy issued by warp 12 lane 0".
  // Agents of other CTAs than the one it is seen from are named with theirs.
  std::string who(Agent agent, Mask lanes, const Clock::Partial& issuer, u32 from_cta) const;
  Dim3 cta_id(u32 cta) const { return cta_ids_[cta]; }
  u32 cta_of(Agent agent) const { return at(agent).cta; }

 private:
  struct Description {
    AgentKind kind;
    u32 cta, index;
  };
  Description at(Agent agent) const;

  const std::vector<Dim3> cta_ids_;
  mutable std::mutex mutex_;
  std::vector<Description> agents_;
};

std::string hex(u64 value);            // "0x8400"
std::string lanes_text(Mask lanes);   // "lane 0", "lanes 0-3,8"
std::string cta_text(const Dim3& id);  // "CTA (2,1,0)"

}  // namespace sim::check
