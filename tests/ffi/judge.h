// Runs one call and compares what the handler did with what the contract asks.
#pragma once

#include "generate.h"

// Gives the buffers of a valid call memory, marks its results, fills its operands. False where that would be too much.
bool prepare(Prng& random, Call& call);

// A valid, prepared call succeeds and writes every element of its results. Any other is refused with INVALID_ARGUMENT
// in words and touches no memory: it gets none. Returns what is wrong, or an empty string.
std::string run_and_judge(Call& call, bool is_valid, XLA_FFI_ExecutionContext& context);
