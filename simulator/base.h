// The few words that every room of the simulator uses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace sim {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i8 = std::int8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;
using u128 = unsigned __int128;

constexpr int warp_size = 32;
using Mask = u32;  // one bit a lane
constexpr Mask all_lanes = 0xFFFFFFFF;
constexpr u32 lane_count(Mask mask) { return static_cast<u32>(__builtin_popcount(mask)); }

struct Dim3 {
  u32 x = 1, y = 1, z = 1;
  u64 volume() const { return u64{x} * y * z; }
};

enum class Space : u8 { global, shared, tensor, parameter };

// What a user can cause and must be told in words: text that cannot be parsed, a launch that cannot be made.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace sim
