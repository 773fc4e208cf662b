// Generic addresses: the windows through which a 64-bit address reaches shared memory and the kernel's parameters
// (PTX ISA, "Generic Addressing"). Everything else is global memory and stands for itself.
#pragma once

#include "base.h"

namespace sim {

// The places are ours; the ISA only says that windows exist. Both lie above any address that a host hands out.
constexpr u64 parameter_window = 0x7E00'0000'0000'0000;
constexpr u64 shared_window = 0x7F00'0000'0000'0000;
constexpr u64 window_bytes = u64{1} << 32;

// A shared::cluster address: the CTA's rank in the bits from 24 up, its offset below.
constexpr u32 cta_rank_shift = 24;
constexpr u32 cta_offset_mask = (u32{1} << cta_rank_shift) - 1;

// Below the window the difference wraps to a large number.
constexpr bool is_shared_window(u64 address) { return address - shared_window < window_bytes; }
constexpr u32 shared_address(u64 address) { return static_cast<u32>(address - shared_window); }

constexpr bool is_parameter_window(u64 address) { return address - parameter_window < window_bytes; }
constexpr u32 parameter_offset(u64 address) { return static_cast<u32>(address - parameter_window); }

constexpr u32 map_to_rank(u32 address, u32 rank) { return (address & cta_offset_mask) | rank << cta_rank_shift; }

}  // namespace sim
