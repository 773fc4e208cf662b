// A conflict of two accesses, or an uninitialised read, in the words of a kernel's author.
#include "check/race.h"

namespace sim::check {

namespace {

std::string role(const Entry& entry) { return entry.atomic() ? "atomic" : entry.write ? "write" : "read"; }

bool known_but_not_fenced(const Entry& first, const Access& access) {
  return clock_needed(first, access) == &Knowledge::fenced && covered(&Knowledge::generic, first, access);
}

std::string title(const Place& place, const Conflict& conflict, const Access& access, const Agents& agents) {
  const Entry& first = conflict.first;
  const std::string memory = place.memory;
  const std::string early = conflict.first_agents->noun(first.agent);
  if (known_but_not_fenced(first, access))
    return memory + " that " + early + " wrote is " + (access.write ? "overwritten" : "read") + " by " +
           agents.noun(access.agent) + " without a proxy fence between (fence.proxy.async)";
  return memory + " is " + (access.write ? "overwritten" : "read") + " while " + early + " may still " +
         (first.write ? "write" : "read") + " it";
}

// What the actor last knew of the earlier agent.
std::string why(const Conflict& conflict, const Access& access, const std::string& actor, const std::string& earlier) {
  const Entry& first = conflict.first;
  const std::string what = first.write ? "write" : "read";
  if (known_but_not_fenced(first, access))
    return actor + " waited for the write, but no fence.proxy.async stands between the write and this access";
  if (first.cluster != access.cluster && !access.known->of_cluster(first.cluster))
    return "nothing that " + actor + " acquired comes from the other cluster";
  const Knowledge& known =
      first.cluster == access.cluster ? *access.known : *access.known->of_cluster(first.cluster);
  const Mask passed = known.generic.lanes_known(first.agent, first.time), met = passed & first.lanes;
  const Clock::Partial& issuer = access.known->generic.asking();
  if (issuer.time && issuer.agent == first.agent && first.cluster == access.cluster)
    return lanes_text(first.lanes & ~met) + " of the warp did not meet the issuing " + lanes_text(issuer.lanes) +
           " after the " + what + " (bar.warp.sync)";
  if (met)
    return "of " + earlier + " the " + what + " of " + lanes_text(met) + " alone was passed on: " +
           lanes_text(first.lanes & ~met) + " did not meet the arriving ones (bar.warp.sync)";
  if (passed)
    return lanes_text(passed) + " of the warp alone arrived after the " + what + ": " + lanes_text(first.lanes) +
           " did not meet the arriving ones (bar.warp.sync)";
  if (known.generic.known(first.agent) == 0) return "nothing that " + actor + " waited for follows the " + what;
  return "what " + actor + " last waited for follows an earlier access of " + earlier + ", not this " + what +
         " (time " + std::to_string(known.generic.known(first.agent)) + ", the " + what + " is at " +
         std::to_string(first.time) + ")";
}

}  // namespace

u32 report_pc(u32 entry_pc) { return entry_pc == Entry::pc_bits ? Site::no_pc : entry_pc; }

Report describe_race(const Place& place, const Conflict& conflict, const Access& access, const Agents& agents) {
  const Entry& first = conflict.first;
  const Clock::Partial& issuer = access.known->generic.asking();
  Report report{.kind = Kind::race};
  report.title = title(place, conflict, access, agents);
  report.cta = agents.cta_id(place.cta);
  report.where = place.range;
  const u32 seen_from = first.cluster == access.cluster ? place.cta : ~0u;  // another cluster's CTA is always named
  report.first = {conflict.first_agents->who(first.agent, first.lanes, conflict.first_issuer, seen_from),
                  report_pc(first.pc())};
  report.second = {agents.who(access.agent, access.lanes, issuer, place.cta), report_pc(access.pc())};
  report.first_role = role(first);
  report.second_role = role(access);
  const std::string actor = issuer.time ? agents.who(issuer.agent, issuer.lanes, {}, place.cta) : report.second.who;
  report.why = why(conflict, access, actor, report.first.who);
  return report;
}

Report describe_uninitialised(const Place& place, const Access& access, const Agents& agents) {
  Report report{.kind = Kind::uninitialised};
  report.title = std::string(place.memory) + " is read before anything was written to it";
  report.cta = agents.cta_id(place.cta);
  report.where = place.range;
  report.second = {agents.who(access.agent, access.lanes, access.known->generic.asking(), place.cta),
                   report_pc(access.pc())};
  report.second_role = "read";
  return report;
}

}  // namespace sim::check
