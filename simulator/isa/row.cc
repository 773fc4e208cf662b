// What a row's binder may ask: the parts of a spelling, and the widths of PTX's types (PTX ISA, "Types").
#include "isa/row.h"

#include <algorithm>
#include <array>
#include <utility>

namespace sim {
namespace {

constexpr std::array<std::pair<std::string_view, u8>, 32> types{{
    {"pred", 0},  {"b8", 1},     {"u8", 1},    {"s8", 1},    {"b16", 2},   {"u16", 2},   {"s16", 2},   {"f16", 2},
    {"bf16", 2},  {"e4m3x2", 2}, {"e5m2x2", 2}, {"b32", 4},  {"u32", 4},   {"s32", 4},   {"f32", 4},   {"tf32", 4},
    {"f16x2", 4}, {"bf16x2", 4}, {"u16x2", 4}, {"s16x2", 4}, {"b64", 8},   {"u64", 8},   {"s64", 8},   {"f64", 8},
    {"f32x2", 8}, {"b128", 16},  {"u128", 16}, {"s128", 16}, {"e4m3", 1},  {"e5m2", 1},  {"e2m1x2", 1}, {"ue8m0x2", 2},
}};

}  // namespace

std::optional<u8> type_bytes(std::string_view type) {
  const auto* found = std::find_if(types.begin(), types.end(), [&](const auto& row) { return row.first == type; });
  if (found == types.end()) return std::nullopt;
  return found->second;
}

bool Spelling::has(std::string_view part) const { return std::find(parts.begin(), parts.end(), part) != parts.end(); }

std::string_view Spelling::starting(std::string_view prefix) const {
  for (std::string_view part : parts)
    if (part.starts_with(prefix)) return part;
  return {};
}

std::string_view Spelling::type(int from_last) const {
  for (auto part = parts.rbegin(); part != parts.rend(); ++part)
    if (type_bytes(*part) && from_last-- == 0) return *part;
  return {};
}

void Binding::refuse(const std::string& why) const {
  throw Error(*where + ": " + std::string(spelling.text) + ": " + why);
}

}  // namespace sim
