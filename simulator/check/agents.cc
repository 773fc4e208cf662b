// Who the agents of a cluster are, in words.
#include "check/agents.h"

#include <cassert>
#include <limits>

namespace sim::check {

namespace {

// Operations of a warp's own, and pipes that several warps may feed.
bool of_one_warp(AgentKind kind) {
  return kind != AgentKind::tensor_copy && kind != AgentKind::tcgen05 && kind != AgentKind::work_steal;
}

std::string operation(AgentKind kind) {
  switch (kind) {
    case AgentKind::warp: return "warp";
    case AgentKind::tensor_copy: return "tensor copy";
    case AgentKind::bulk_store: return "bulk store";
    case AgentKind::wgmma: return "wgmma";
    case AgentKind::tcgen05: return "tcgen05.mma";
    case AgentKind::tensor_load: return "tcgen05.ld";
    case AgentKind::tensor_store: return "tcgen05.st";
    case AgentKind::cp_async: return "cp.async";
    case AgentKind::work_steal: return "clusterlaunchcontrol";
  }
  return "";
}

}  // namespace

std::string hex(u64 value) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  do text.insert(text.begin(), digits[value & 15]);
  while (value >>= 4);
  return "0x" + text;
}

std::string lanes_text(Mask lanes) {
  std::string text;
  int count = 0;
  for (int lane = 0; lane < warp_size;) {
    if (!(lanes >> lane & 1)) {
      ++lane;
      continue;
    }
    int last = lane;
    while (last + 1 < warp_size && (lanes >> (last + 1) & 1)) ++last;
    if (!text.empty()) text += ",";
    text += std::to_string(lane);
    if (last > lane) text += "-" + std::to_string(last);
    count += last - lane + 1;
    lane = last + 1;
  }
  return (count == 1 ? "lane " : "lanes ") + text;
}

std::string cta_text(const Dim3& id) {
  return "CTA (" + std::to_string(id.x) + "," + std::to_string(id.y) + "," + std::to_string(id.z) + ")";
}

Agents::Agents(std::vector<Dim3> cta_ids) : cta_ids_(std::move(cta_ids)) {}

Agent Agents::add(AgentKind kind, u32 cta, u32 index) {
  const std::lock_guard lock(mutex_);
  assert(agents_.size() < std::numeric_limits<u16>::max());  // Entry::agent
  agents_.push_back({kind, cta, index});
  return static_cast<Agent>(agents_.size() - 1);
}

Agents::Description Agents::at(Agent agent) const {
  const std::lock_guard lock(mutex_);
  return agents_[agent];
}

std::string Agents::noun(Agent agent) const {
  const AgentKind kind = at(agent).kind;
  const bool countable = kind == AgentKind::warp || kind == AgentKind::tensor_copy || kind == AgentKind::bulk_store;
  return (countable ? "a " : "") + operation(kind);
}

std::string Agents::who(Agent agent, Mask lanes, const Clock::Partial& issuer, u32 from_cta) const {
  const Description description = at(agent);
  std::string text = operation(description.kind);
  u32 cta = description.cta;
  if (description.kind == AgentKind::warp) {
    text += " " + std::to_string(description.index) + " " + lanes_text(lanes);
  } else if (issuer.time) {
    const Description warp = at(issuer.agent);
    cta = warp.cta;
    text += " issued by warp " + std::to_string(warp.index);
    if (issuer.lanes != all_lanes) text += " " + lanes_text(issuer.lanes);
  } else if (of_one_warp(description.kind)) {
    text += " issued by warp " + std::to_string(description.index);
  } else if (description.kind == AgentKind::tensor_copy) {
    text += " that completes on mbarrier " + hex(description.index);
  }
  return cta == from_cta ? text : text + " of " + cta_text(cta_ids_[cta]);
}

}  // namespace sim::check
