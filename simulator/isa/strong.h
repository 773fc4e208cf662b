// Strong accesses to global memory: order, release and acquire (PTX ISA, "Memory Consistency Model").
#pragma once

#include <optional>

#include "isa/row.h"
#include "machine/warp.h"

namespace sim {

enum class Order : u32 { weak, relaxed, acquire, release, acq_rel };

Order order(const Spelling& spelling);

// The same strong load again, and no strong write since: it can only see the same value, so the warp may sleep until
// there is one. Returns the grid's version that the load saw then.
std::optional<u64> polls(Warp& warp, u64 address);

// What a strong write at these addresses passes on (release, or relaxed after a fence).
void before_strong_write(Warp& warp, const Operand& address, Order order);
// What a strong read from these addresses learns (acquire, or relaxed before a fence).
void after_strong_read(Warp& warp, const Operand& address, Order order);

}  // namespace sim
