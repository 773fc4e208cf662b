#include "parameters.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "error.h"
#include "tensor_map.h"

namespace jax_fa4::cuda {
namespace {

#define JAX_FA4_ARRAY(name, ...)                                     \
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

// Sums of a band's sides with positions stay within 32 bits; longer ones are no limit.
constexpr std::int64_t no_limit = std::int64_t{1} << 30;
std::int64_t side(std::int64_t window) { return window < 0 ? no_limit : std::min(window, no_limit); }

// Tiles' heads whose keys and values fill half of the L2 cache: those that tiles are computed of at the same time.
std::int64_t section(const Launch& launch) {
  const Problem& p = launch.problem;
  const std::int64_t bytes = p.key_length * (p.head_dim + p.value_head_dim) * bytes_of(p.key.element);
  const std::int64_t key_heads = launch.device.l2_bytes / 2 / std::max<std::int64_t>(1, bytes);
  return std::min(std::max<std::int64_t>(1, key_heads) * launch.group(), launch.heads() * launch.entries);
}

// From one batch entry to the next, over the innermost axis that has more than one; 0 where the array is shared.
std::int64_t step_of(const Operand& operand) {
  for (int axis = operand.batch.axes - 1; axis >= 0; --axis)
    if (operand.batch.extent[axis] > 1) return operand.batch.stride[axis];
  return 0;
}

std::int64_t number_of(Element element) {
  switch (element) {
    case Element::f32: return 0;
    case Element::bf16: return 1;
    case Element::f16: return 2;
    case Element::f64: return 3;
    case Element::i32: case Element::boolean: break;
  }
  fail(ErrorCode::kInternal, "an element type that spec.cc should have refused");
}

#define JAX_FA4_STRIDE(name) {#name "_stride", [](const Launch& l) { return step_of(l.problem.name); }}
#define JAX_FA4_DTYPE(name) {#name "_dtype", [](const Launch& l) { return number_of(l.problem.name.element); }}
constexpr IntegerRow integers[] = {
    {"queries", [](const Launch& l) { return l.problem.query_length; }},
    {"keys", [](const Launch& l) { return l.problem.key_length; }},
    {"heads", [](const Launch& l) { return l.heads(); }},
    {"group", [](const Launch& l) { return l.group(); }},
    {"pack_shift", [](const Launch& l) { return std::int64_t{std::countr_zero(std::uint64_t(l.pack))}; }},
    {"batch", [](const Launch& l) { return l.entries; }},
    {"section", section},
    {"low", [](const Launch& l) { return -side(l.problem.window_left); }},
    {"high", [](const Launch& l) { return side(l.problem.window_right); }},
    JAX_FA4_STRIDE(sinks), JAX_FA4_STRIDE(alibi_slopes),
    JAX_FA4_STRIDE(query_segment_ids), JAX_FA4_STRIDE(key_value_segment_ids),
    JAX_FA4_STRIDE(query_seq_lengths), JAX_FA4_STRIDE(key_value_seq_lengths),
    JAX_FA4_STRIDE(query_offset),
    JAX_FA4_DTYPE(sinks), JAX_FA4_DTYPE(alibi_slopes),
};
#undef JAX_FA4_STRIDE
#undef JAX_FA4_DTYPE

constexpr double log2_e = 1.4426950408889634;

constexpr FloatRow floats[] = {
    {"scale_log2", [](const Problem& p) { return p.scale * log2_e; }},  // kernels compute with exp2
    {"logits_soft_cap", [](const Problem& p) { return p.soft_cap; }},
};

template <class Row, size_t count>
const Row* find(const Row (&rows)[count], std::string_view name) {
  const auto at = std::find_if(std::begin(rows), std::end(rows), [&](const Row& row) { return name == row.name; });
  return at == std::end(rows) ? nullptr : at;
}

std::int64_t volume(const Extents& extents) { return extents[0] * extents[1] * extents[2]; }

char* address_of(const Operand& operand, std::int64_t batch) {
  return static_cast<char*>(operand.data) + operand.batch.offset(batch) * bytes_of(operand.element);
}

// `pack` heads lie in the tile where the map has an axis for them.
View view_of(Axis axis, const Launch& launch, const Extents& extents, std::int64_t pack) {
  const auto [length, heads, head_dim] = extents;
  switch (axis) {
    case Axis::head_dim: return {head_dim, 1};
    case Axis::pack: return {pack, head_dim};
    case Axis::length: return {length, heads * head_dim};
    case Axis::heads: return {heads / pack, pack * head_dim};
    case Axis::batch: return {launch.entries, length * heads * head_dim};
  }
  return {};
}

bool is_packed(const Parameter& parameter) {
  return std::find(parameter.axes.begin(), parameter.axes.end(), Axis::pack) != parameter.axes.end();
}

CUtensorMap tensor_map(const Driver& driver, const Parameter& parameter, const Launch& launch) {
  const Operand* operand = &parameter.array->operand(launch.problem);
  const Element element = operand->element;
  Extents extents = parameter.array->extents(launch.problem);
  if (!*operand) {
    // Keys or values of length 0: a map may not be empty. The kernel walks over none of them, so nothing is read.
    operand = &launch.problem.output;
    extents[0] = 1;
  }
  const std::int64_t pack = is_packed(parameter) ? launch.pack : 1;
  Box box{element, address_of(*operand, launch.first), {}, {}};
  for (size_t i = 0; i < parameter.axes.size(); ++i) {
    const Axis axis = parameter.axes[i];
    box.views[i] = view_of(axis, launch, extents, pack);
    box.extents[i] = axis == Axis::pack     ? std::uint32_t(pack)
                     : axis == Axis::length ? parameter.box[i] / std::uint32_t(pack)
                                            : parameter.box[i];
  }
  return encode(driver, parameter, box);
}

std::int32_t integer_of(const Parameter& parameter, const Launch& launch) {
  const std::int64_t value = parameter.integer->value(launch);
  if (value < std::numeric_limits<std::int32_t>::min() || value > std::numeric_limits<std::int32_t>::max())
    fail(ErrorCode::kInvalidArgument, parameter.of + " is " + std::to_string(value) + ": too large for one launch");
  return std::int32_t(value);
}

// Whether the kernel can walk this axis of the array together with the `entries` of the axes after it.
bool walks(const Parameter& parameter, const Problem& problem, int axis, std::int64_t entries) {
  const Operand& operand = parameter.array->operand(problem);
  if (!operand) return true;
  const std::int64_t step = parameter.strided ? step_of(operand) : volume(parameter.array->extents(problem));
  return operand.batch.stride[axis] == entries * step;
}

}  // namespace

const ArrayRow* find_array(std::string_view name) { return find(arrays, name); }
const IntegerRow* find_integer(std::string_view name) { return find(integers, name); }
const FloatRow* find_float(std::string_view name) { return find(floats, name); }

std::int64_t entries_of_a_launch(const Problem& problem, const Variant& variant) {
  std::int64_t entries = 1;
  for (int axis = problem.output.batch.axes - 1; axis >= 0; --axis) {
    const std::int64_t extent = problem.output.batch.extent[axis];
    if (extent == 1) continue;
    for (const Parameter& parameter : variant.parameters)
      if (parameter.array && !walks(parameter, problem, axis, entries)) return entries;
    entries *= extent;
  }
  return entries;
}

void set_value(Value& value, const Driver& driver, const Parameter& parameter, const Launch& launch) {
  switch (parameter.kind) {
    case Kind::tensor_map: value.map = tensor_map(driver, parameter, launch); return;
    case Kind::i32: value.integer = integer_of(parameter, launch); return;
    case Kind::f32: value.number = float(parameter.number->value(launch.problem)); return;
    case Kind::pointer: {
      const Operand& operand = parameter.array->operand(launch.problem);
      value.pointer = operand ? reinterpret_cast<CUdeviceptr>(address_of(operand, launch.first)) : 0;
    }
  }
}

}  // namespace jax_fa4::cuda
