#include "launch.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "error.h"
#include "tensor_map.h"

namespace jax_fa4::cuda {
namespace {

// One launch: entries [first, first + entries) of the call's batch.
struct Launch {
  const Target& target;
  const Problem& problem;
  std::int64_t first = 0, entries = 1;

  std::int64_t tiles_per_head() const { return (problem.query_length + target.variant.rows - 1) / target.variant.rows; }
  std::int64_t tiles() const { return tiles_per_head() * problem.query_heads * entries; }
};

// Extents of one batch entry of an array: length, heads, head_dim; 1 where it has no such axis.
using Extents = std::array<std::int64_t, 3>;

struct ArrayRow {
  const char* name;
  const Operand& (*operand)(const Problem&);
  Extents (*extents)(const Problem&);
};

#define JAX_FA4_ARRAY(name, ...)                                          \
  {#name, [](const Problem& p) -> const Operand& { return p.name; }, \
   []([[maybe_unused]] const Problem& p) { return Extents{__VA_ARGS__}; }}
constexpr ArrayRow arrays[] = {
    JAX_FA4_ARRAY(query, p.query_length, p.query_heads, p.head_dim),
    JAX_FA4_ARRAY(key, p.key_length, p.key_value_heads, p.head_dim),
    JAX_FA4_ARRAY(value, p.key_length, p.key_value_heads, p.value_head_dim),
    JAX_FA4_ARRAY(output, p.query_length, p.query_heads, p.value_head_dim),
    JAX_FA4_ARRAY(log_sum_exp, p.query_length, p.query_heads, 1),
    JAX_FA4_ARRAY(sinks, 1, p.query_heads, 1),
    JAX_FA4_ARRAY(alibi_slopes, 1, p.query_heads, 1),
    JAX_FA4_ARRAY(query_segment_ids, p.query_length, 1, 1),
    JAX_FA4_ARRAY(key_value_segment_ids, p.key_length, 1, 1),
    JAX_FA4_ARRAY(query_seq_lengths, 1, 1, 1),
    JAX_FA4_ARRAY(key_value_seq_lengths, 1, 1, 1),
    JAX_FA4_ARRAY(query_offset, 1, 1, 1),
};
#undef JAX_FA4_ARRAY

struct IntegerRow {
  const char* name;
  std::int64_t (*value)(const Launch&);
};

// Sums of a band's sides with positions stay within 32 bits; longer ones are no limit.
constexpr std::int64_t no_limit = std::int64_t{1} << 30;
std::int64_t side(std::int64_t window) { return window < 0 ? no_limit : std::min(window, no_limit); }

// Query heads whose keys and values fill half of the L2 cache: those that tiles are computed of at the same time.
std::int64_t section_of(const Launch& launch) {
  const Problem& p = launch.problem;
  const std::int64_t bytes = p.key_length * (p.head_dim + p.value_head_dim) * bytes_of(p.key.element);
  return std::max<std::int64_t>(1, launch.target.device.l2_bytes / 2 / bytes) * p.group();
}

constexpr IntegerRow integers[] = {
    {"queries", [](const Launch& l) { return l.problem.query_length; }},
    {"keys", [](const Launch& l) { return l.problem.key_length; }},
    {"heads", [](const Launch& l) { return l.problem.query_heads; }},
    {"group", [](const Launch& l) { return l.problem.group(); }},
    {"batch", [](const Launch& l) { return l.entries; }},
    {"section", [](const Launch& l) { return std::min(section_of(l), l.problem.query_heads * l.entries); }},
    {"low", [](const Launch& l) { return -side(l.problem.window_left); }},
    {"high", [](const Launch& l) { return side(l.problem.window_right); }},
};

struct FloatRow {
  const char* name;
  double (*value)(const Problem&);
};

constexpr double log2_e = 1.4426950408889634;

constexpr FloatRow floats[] = {
    {"scale", [](const Problem& p) { return p.scale; }},
    {"scale_log2", [](const Problem& p) { return p.scale * log2_e; }},  // for a kernel that computes with exp2
    {"logits_soft_cap", [](const Problem& p) { return p.soft_cap; }},
};

template <class Row, size_t count>
const Row* find(const Row (&rows)[count], const std::string& name) {
  const auto at = std::find_if(std::begin(rows), std::end(rows), [&](const Row& row) { return name == row.name; });
  return at == std::end(rows) ? nullptr : at;
}

std::int64_t volume(const Extents& extents) { return extents[0] * extents[1] * extents[2]; }

char* address_of(const Operand& operand, std::int64_t batch) {
  return static_cast<char*>(operand.data) + operand.batch.offset(batch) * bytes_of(operand.element);
}

// How many batch entries one launch may cover: as many of the last axes as every array of the kernel runs through
// densely. The other axes, where vmap or a broadcast shares an array, are launches of their own.
std::int64_t entries_of_a_launch(const Problem& p, const Variant& variant) {
  std::int64_t entries = 1;
  for (int axis = p.output.batch.axes - 1; axis >= 0; --axis) {
    const std::int64_t extent = p.output.batch.extent[axis];
    if (extent == 1) continue;
    for (const Parameter& parameter : variant.parameters) {
      const ArrayRow* row = find(arrays, parameter.of);
      if (!row || !row->operand(p)) continue;
      if (row->operand(p).batch.stride[axis] != entries * volume(row->extents(p))) return entries;
    }
    entries *= extent;
  }
  return entries;
}

View view_of(Axis axis, const Launch& launch, const Extents& extents) {
  const auto [length, heads, head_dim] = extents;
  const std::int64_t group = heads / launch.problem.key_value_heads;
  switch (axis) {
    case Axis::head_dim: return {head_dim, 1};
    case Axis::length: return {length, heads * head_dim};
    case Axis::heads: return {heads, head_dim};
    case Axis::group: return {group, head_dim};
    case Axis::key_value_heads: return {launch.problem.key_value_heads, group * head_dim};
    case Axis::batch: return {launch.entries, length * heads * head_dim};
  }
  return {};
}

CUtensorMap tensor_map(const Parameter& parameter, const Launch& launch) {
  const ArrayRow& row = *find(arrays, parameter.of);
  const Operand& operand = row.operand(launch.problem);
  std::vector<View> views;
  for (Axis axis : parameter.axes) views.push_back(view_of(axis, launch, row.extents(launch.problem)));
  return encode(launch.target.driver, parameter, operand.element, address_of(operand, launch.first), views);
}

// A parameter's bytes where the driver copies them from.
union Value {
  CUtensorMap map;
  CUdeviceptr pointer;
  std::int32_t integer;
  float number;
};

std::int32_t integer_of(const Parameter& parameter, const Launch& launch) {
  const std::int64_t value = find(integers, parameter.of)->value(launch);
  if (value < std::numeric_limits<std::int32_t>::min() || value > std::numeric_limits<std::int32_t>::max())
    fail(ErrorCode::kInvalidArgument, parameter.of + " is " + std::to_string(value) + ": too large for one launch");
  return std::int32_t(value);
}

void set_value(Value& value, const Parameter& parameter, const Launch& launch) {
  switch (parameter.kind) {
    case Kind::tensor_map: value.map = tensor_map(parameter, launch); return;
    case Kind::i32: value.integer = integer_of(parameter, launch); return;
    case Kind::f32: value.number = float(find(floats, parameter.of)->value(launch.problem)); return;
    case Kind::pointer: {
      const Operand& operand = find(arrays, parameter.of)->operand(launch.problem);
      value.pointer = operand ? reinterpret_cast<CUdeviceptr>(address_of(operand, launch.first)) : 0;
    }
  }
}

// A multiple of the cluster: kernels leave CTAs beyond the last tile without one.
unsigned ctas_of(const Launch& launch) {
  const Variant& variant = launch.target.variant;
  const std::int64_t cluster = variant.cluster[0];
  std::int64_t ctas = (launch.tiles() + cluster - 1) / cluster * cluster;
  if (variant.persistent)
    ctas = std::min(ctas, std::max(cluster, launch.target.device.multiprocessors / cluster * cluster));
  if (ctas > std::numeric_limits<std::int32_t>::max())
    fail(ErrorCode::kInvalidArgument, "batch, heads and query length are too large together for one launch");
  return unsigned(ctas);
}

void run(const Launch& launch) {
  const Target& target = launch.target;
  const Variant& variant = target.variant;
  std::vector<Value> values(variant.parameters.size());
  std::vector<void*> pointers(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    set_value(values[i], variant.parameters[i], launch);
    pointers[i] = &values[i];
  }
  CUlaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (variant.cluster[0] * variant.cluster[1] * variant.cluster[2] > 1) {
    CUlaunchAttribute& attribute = attributes[count++];
    attribute.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim = {variant.cluster[0], variant.cluster[1], variant.cluster[2]};
  }
  if (variant.dependent) {
    CUlaunchAttribute& attribute = attributes[count++];
    attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
  }
  const CUlaunchConfig config = {ctas_of(launch),      1,       1, variant.threads, 1, 1, variant.shared_bytes,
                                 target.stream, attributes, count};
  check(target.driver, target.driver.cuLaunchKernelEx(&config, target.function, pointers.data(), nullptr), "launching ",
        variant.name, " (", std::to_string(config.gridDimX), " blocks of ", std::to_string(variant.threads),
        " threads) on ", target.device.name);
}

}  // namespace

bool known_parameter(const Parameter& parameter) {
  switch (parameter.kind) {
    case Kind::tensor_map: case Kind::pointer: return find(arrays, parameter.of) != nullptr;
    case Kind::i32: return find(integers, parameter.of) != nullptr;
    case Kind::f32: return find(floats, parameter.of) != nullptr;
  }
  return false;
}

void launch_forward(const Target& target, const Problem& problem) {
  const std::int64_t entries = entries_of_a_launch(problem, target.variant);
  for (std::int64_t first = 0; first < problem.batch; first += entries) run({target, problem, first, entries});
}

void fill_without_keys(const Driver& driver, const Problem& p, CUstream stream) {
  if (p.sinks || p.output.batch.axes == 0)
    fail(ErrorCode::kUnimplemented, "sinks without keys: pass implementation=\"blockwise\"");
  const auto rows = size_t(p.batch * p.query_heads * p.query_length);
  const auto pointer = [](const Operand& operand) { return reinterpret_cast<CUdeviceptr>(operand.data); };
  const size_t bytes = rows * size_t(p.value_head_dim * bytes_of(p.output.element));
  constexpr unsigned minus_infinity = 0xFF800000;
  check(driver, driver.cuMemsetD8Async(pointer(p.output), 0, bytes, stream), "setting the output to 0");
  check(driver, driver.cuMemsetD32Async(pointer(p.log_sum_exp), minus_infinity, rows, stream),
        "setting the log-sum-exp to -inf");
}

}  // namespace jax_fa4::cuda
