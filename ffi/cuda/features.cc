#include "features.h"

namespace jax_fa4::cuda {
namespace {

struct Feature {
  const char* name;
  bool (*used)(const Problem&);
};

constexpr Feature features[] = {
    {"causal", [](const Problem& p) { return p.window_left < 0 && p.window_right == 0; }},
    {"window", [](const Problem& p) { return p.window_left >= 0 || p.window_right > 0; }},
    {"query_offset", [](const Problem& p) { return bool(p.query_offset); }},
    {"logits_soft_cap", [](const Problem& p) { return p.soft_cap != 0; }},
    {"bias", [](const Problem& p) { return bool(p.bias); }},
    {"mask", [](const Problem& p) { return bool(p.mask); }},
    {"sinks", [](const Problem& p) { return bool(p.sinks); }},
    {"alibi_slopes", [](const Problem& p) { return bool(p.alibi_slopes); }},
    {"segment_ids", [](const Problem& p) { return bool(p.query_segment_ids); }},
    {"seq_lengths", [](const Problem& p) { return p.query_seq_lengths || p.key_value_seq_lengths; }},
};

constexpr unsigned count = sizeof features / sizeof features[0];

}  // namespace

std::optional<unsigned> feature_bit(const std::string& name) {
  for (unsigned i = 0; i < count; ++i)
    if (name == features[i].name) return 1u << i;
  return std::nullopt;
}

unsigned used_features(const Problem& problem) {
  unsigned bits = 0;
  for (unsigned i = 0; i < count; ++i)
    if (features[i].used(problem)) bits |= 1u << i;
  return bits;
}

std::string names_of_features(unsigned bits) {
  std::string names;
  for (unsigned i = 0; i < count; ++i)
    if (bits >> i & 1) names += (names.empty() ? "" : ", ") + std::string(features[i].name);
  return names;
}

}  // namespace jax_fa4::cuda
