#include "mutate.h"

#include <limits>

namespace {

constexpr int64_t strange_extents[] = {
    0, 0, 1, 2, 3, 7, 64, -1, -2, int64_t{1} << 20, INT32_MAX, int64_t{1} << 31, int64_t{1} << 32, int64_t{1} << 40,
    (int64_t{1} << 40) + 1, int64_t{1} << 62, INT64_MAX, INT64_MIN};

// Types that XLA has and the call does not take; 13, 14, 40 and 63 stand for types of a future XLA.
constexpr int strange_types[] = {
    XLA_FFI_DataType_INVALID, XLA_FFI_DataType_PRED, XLA_FFI_DataType_S8,    XLA_FFI_DataType_S32,
    XLA_FFI_DataType_S64,     XLA_FFI_DataType_U16,  XLA_FFI_DataType_F16,   XLA_FFI_DataType_F32,
    XLA_FFI_DataType_F64,     XLA_FFI_DataType_BF16, XLA_FFI_DataType_C64,   XLA_FFI_DataType_C128,
    XLA_FFI_DataType_S4,      XLA_FFI_DataType_TOKEN, XLA_FFI_DataType_F8E5M2, 13, 14, 40, 63};

Buffer& any_operand(Prng& random, Call& call) { return random.any_of(call.operands); }

Buffer& any_buffer(Prng& random, Call& call) { return random.any_of(random.chance(70) ? call.operands : call.results); }

Attribute& any_attribute(Prng& random, Call& call) { return random.any_of(call.attributes); }

Attribute* find(Call& call, const char* name) {
  for (Attribute& attribute : call.attributes)
    if (attribute.name == name) return &attribute;
  return nullptr;
}

void strange_rank(Prng& random, Call& call) {
  Dims& dims = any_buffer(random, call).dims;
  switch (random.below(5)) {
    case 0: dims.insert(dims.begin(), 1); return;
    case 1: dims.push_back(random.between(0, 2)); return;
    case 2: dims.assign(size_t(random.between(0, 20)), random.between(0, 1)); return;
    default:
      if (!dims.empty()) dims.erase(dims.begin() + random.below(int64_t(dims.size())));
  }
}

void strange_extent(Prng& random, Call& call) {
  Dims& dims = any_buffer(random, call).dims;
  if (dims.empty()) return;
  int64_t& extent = random.any_of(dims);
  const int64_t neighbour = int64_t(uint64_t(extent) + (random.chance(50) ? 1 : UINT64_MAX));
  extent = random.chance(25) ? neighbour : random.any_of(strange_extents);
}

void strange_result_shape(Prng& random, Call& call) {
  Dims& dims = random.any_of(call.results).dims;
  if (random.chance(20)) dims = {0};
  else if (random.chance(30)) dims = any_operand(random, call).dims;
  else if (random.chance(50) && dims.size() > 1) std::swap(dims[dims.size() - 1], dims[dims.size() - 2]);
  else if (!dims.empty()) random.any_of(dims) = random.any_of(strange_extents);
}

void absent_operand(Prng& random, Call& call) { any_operand(random, call).dims = {0}; }

void strange_type(Prng& random, Call& call) {
  any_buffer(random, call).type = XLA_FFI_DataType(random.any_of(strange_types));
}

void strange_place(Prng& random, Call& call) {
  any_buffer(random, call).place = random.pick({Place::null, Place::misaligned});
}

void not_a_buffer(Prng& random, Call& call) { any_buffer(random, call).is_buffer = false; }

void swapped(Prng& random, Call& call) { std::swap(any_operand(random, call), any_operand(random, call)); }

void missing_buffer(Prng& random, Call& call) {
  std::vector<Buffer>& from = random.chance(50) ? call.operands : call.results;
  // One stays, for other mutations to spoil.
  const bool all = random.chance(10);
  do
    from.erase(from.begin() + random.below(int64_t(from.size())));
  while (all && from.size() > 1);
  if (from.empty()) from.emplace_back();
}

void extra_buffer(Prng& random, Call& call) {
  std::vector<Buffer>& to = random.chance(50) ? call.operands : call.results;
  Buffer buffer;
  buffer.dims = {random.between(0, 2)};
  to.insert(to.begin() + random.below(int64_t(to.size()) + 1), std::move(buffer));
}

void missing_attribute(Prng& random, Call& call) {
  std::vector<Attribute>& from = call.attributes;
  if (random.chance(10)) from.clear();
  else if (!from.empty()) from.erase(from.begin() + random.below(int64_t(from.size())));
}

void renamed_attribute(Prng& random, Call& call) {
  if (call.attributes.empty()) return;
  std::string& name = any_attribute(random, call).name;
  const std::string before = name;
  if (before.empty()) return;
  name = random.pick({before + "_", before.substr(1), before.substr(0, before.size() - 1), std::string("\xff")});
}

void extra_attribute(Prng& random, Call& call) {
  call.attributes.push_back(integer(random.pick({"", "a", "other", "zz"}), random.below(2)));
}

void strange_attribute_type(Prng& random, Call& call) {
  if (call.attributes.empty()) return;
  Attribute& attribute = any_attribute(random, call);
  if (random.chance(50)) attribute.type = XLA_FFI_DataType(random.any_of(strange_types));
  else attribute.kind = XLA_FFI_AttrType(random.between(0, 7));
}

void strange_number(Prng& random, Call& call) {
  using limits = std::numeric_limits<double>;
  Attribute* attribute = find(call, random.pick({"scale", "logits_soft_cap"}));
  if (!attribute) return;
  *attribute = number(attribute->name.c_str(),
                      random.pick({limits::quiet_NaN(), limits::signaling_NaN(), limits::infinity(),
                                   -limits::infinity(), -1.0, 0.0, -0.0, 1e-320, 1e-50, 1e50, limits::max()}));
}

void strange_window(Prng& random, Call& call) {
  Attribute* attribute = find(call, random.pick({"window_left", "window_right"}));
  if (!attribute) return;
  *attribute = integer(attribute->name.c_str(),
                       random.pick({INT64_MIN, INT64_MIN + 1, int64_t{INT32_MIN}, int64_t{-2}, int64_t{-1}, int64_t{0},
                                    int64_t{INT32_MAX}, (int64_t{1} << 33) - 4, int64_t{1} << 33, INT64_MAX - 1,
                                    INT64_MAX}));
}

void strange_version(Prng& random, Call& call) {
  if (Attribute* attribute = find(call, "version"))
    *attribute = integer("version", random.pick({INT64_MIN, int64_t{-1}, int64_t{0}, int64_t{2}, INT64_MAX}));
}

void other_stage(Prng& random, Call& call) { call.stage = XLA_FFI_ExecutionStage(random.below(3)); }

int64_t& any_extent(Prng& random, Extents& extents) {
  switch (random.below(8)) {
    case 0: return extents.T;
    case 1: return extents.S;
    case 2: return extents.N;
    case 3: return extents.K;
    case 4: return extents.H;
    case 5: return extents.V;
    default: return random.any_of(extents.batch);
  }
}

void everywhere(Prng& random, Extents& extents) { any_extent(random, extents) = random.any_of(strange_extents); }

// All arrays empty, by an extent that all have or by each its own, and others as long as they like.
void empty_and_huge(Prng& random, Extents& extents) {
  if (random.chance(50)) random.any_of(extents.batch) = 0;
  else extents.T = extents.S = 0;
  for (int64_t count = random.between(1, 5); count > 0; --count) {
    int64_t& extent = any_extent(random, extents);
    if (extent != 0) extent = random.pick({int64_t{INT32_MAX}, int64_t{1} << 20, int64_t{1} << 30, int64_t{1} << 31});
  }
  if (random.chance(80)) extents.N = extents.K;
}

constexpr Mutation all[] = {
    {"extent, everywhere", everywhere, nullptr},
    {"empty and huge", empty_and_huge, nullptr},
    {"rank", nullptr, strange_rank},
    {"extent", nullptr, strange_extent},
    {"result shape", nullptr, strange_result_shape},
    {"absent operand", nullptr, absent_operand},
    {"element type", nullptr, strange_type},
    {"null or misaligned", nullptr, strange_place},
    {"not a buffer", nullptr, not_a_buffer},
    {"swapped operands", nullptr, swapped},
    {"missing buffer", nullptr, missing_buffer},
    {"extra buffer", nullptr, extra_buffer},
    {"missing attribute", nullptr, missing_attribute},
    {"renamed attribute", nullptr, renamed_attribute},
    {"extra attribute", nullptr, extra_attribute},
    {"attribute type", nullptr, strange_attribute_type},
    {"scale or cap", nullptr, strange_number},
    {"window", nullptr, strange_window},
    {"version", nullptr, strange_version},
    {"other stage", nullptr, other_stage},
};

}  // namespace

std::span<const Mutation> mutations() { return all; }
