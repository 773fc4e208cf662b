// What a kernel's parameters mean: the names that a manifest may use, and the value of each for a launch.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "driver.h"
#include "variants.h"

namespace jax_fa4::cuda {

// One launch: entries [first, first + entries) of the call's batch.
struct Launch {
  const Problem& problem;
  const Variant& variant;
  const Device& device;
  std::int64_t pack = 1;  // query heads that share a tile
  std::int64_t first = 0, entries = 1;

  // Heads of tiles, and how many of them share keys.
  std::int64_t heads() const { return problem.query_heads / pack; }
  std::int64_t group() const { return problem.group() / pack; }
};

// Extents of one batch entry of an array: length, heads, head_dim; 1 where it has no such axis.
using Extents = std::array<std::int64_t, 3>;

struct ArrayRow {
  const char* name;
  const Operand& (*operand)(const Problem&);
  Extents (*extents)(const Problem&);
};

struct IntegerRow {
  const char* name;
  std::int64_t (*value)(const Launch&);
};

struct FloatRow {
  const char* name;
  double (*value)(const Problem&);
};

// Null where there is none of that name.
const ArrayRow* find_array(std::string_view name);
const IntegerRow* find_integer(std::string_view name);
const FloatRow* find_float(std::string_view name);

// How many batch entries one launch of the variant may cover: as many of the last axes as the kernel can walk, that is
// as each array is dense over, or has one stride over where the kernel takes one (0 where it is shared). The other
// axes, where vmap or a broadcast shares an array, are launches of their own.
std::int64_t entries_of_a_launch(const Problem& problem, const Variant& variant);

// A parameter's bytes where the driver copies them from.
union Value {
  CUtensorMap map;
  CUdeviceptr pointer;
  std::int32_t integer;
  float number;
};

// Throws Failure.
void set_value(Value& value, const Driver& driver, const Parameter& parameter, const Launch& launch);

}  // namespace jax_fa4::cuda
