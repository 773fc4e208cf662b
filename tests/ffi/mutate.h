// Ways to spoil a call. None of them promises that the call is no longer valid: contract.h judges the outcome.
#pragma once

#include <span>

#include "generate.h"

struct Mutation {
  const char* name;
  void (*extents)(Prng&, Extents&);  // before the call is made of them: a consistent change; or null
  void (*call)(Prng&, Call&);        // or null
};

std::span<const Mutation> mutations();
