// A conflict of two accesses, or an uninitialised read, in the words of a kernel's author.
#pragma once

#include "check/agents.h"
#include "check/shadow.h"

namespace sim::check {

// Where in a memory a finding stands: "shared memory", and the range within it.
struct Place {
  const char* memory;
  u32 cta;
  std::string range;
};

struct Conflict {
  Entry first;
  const Agents* first_agents;  // those of first.cluster
  Clock::Partial first_issuer;
};

Report describe_race(const Place& place, const Conflict& conflict, const Access& access, const Agents& agents);
Report describe_uninitialised(const Place& place, const Access& access, const Agents& agents);
u32 report_pc(u32 entry_pc);  // of an entry's 24 bits

}  // namespace sim::check
