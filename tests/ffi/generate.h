// Random valid calls, and random contents for their buffers.
#pragma once

#include "contract.h"
#include "prng.h"

// Extents of a call; `largest` bounds the lengths.
Extents random_extents(Prng& random, int64_t largest);

// A call of these extents with random operands present, types, shared batch axes and attributes; no memory yet. It is
// valid where the extents are.
Call random_call(Prng& random, const Extents& extents);

void fill_operands(Prng& random, Call& call);

// Fills results with what no kernel writes, signalling NaNs, and counts the elements that still hold it.
void mark(Buffer& result);
size_t count_marked(const Buffer& result);

Attribute integer(const char* name, int64_t value);
Attribute number(const char* name, double value);
