#include "contract.h"


namespace {

constexpr Row rows_of_operands[] = {
    {"query", "TNH", Kind::query_float, false, false},
    {"key", "SKH", Kind::query_float, false, false},
    {"value", "SKV", Kind::query_float, false, false},
    {"bias", "nts", Kind::any_float, true, false},
    {"mask", "nts", Kind::boolean, true, false},
    {"sinks", "N", Kind::any_float, true, false},
    {"alibi_slopes", "N", Kind::any_float, true, false},
    {"query_segment_ids", "T", Kind::index, true, false},
    {"key_value_segment_ids", "S", Kind::index, true, false},
    {"query_seq_lengths", "", Kind::index, true, false},
    {"key_value_seq_lengths", "", Kind::index, true, false},
    {"query_offset", "", Kind::index, true, false},
    {"output", "TNV", Kind::any_float, false, false},
    {"log_sum_exp", "NT", Kind::accumulator, false, false},
    {"output_gradient", "TNV", Kind::any_float, false, false},
    {"log_sum_exp_gradient", "NT", Kind::accumulator, false, false},
};
constexpr size_t forward_operands = 12;

constexpr Row forward_results[] = {
    {"output", "TNV", Kind::any_float, false, true},
    {"log_sum_exp", "NT", Kind::accumulator, false, true},
};

constexpr Row backward_results[] = {
    {"gradient of query", "TNH", Kind::any_float, true, true},
    {"gradient of key", "SKH", Kind::any_float, true, true},
    {"gradient of value", "SKV", Kind::any_float, true, true},
    {"gradient of bias", "nts", Kind::any_float, true, false},
    {"gradient of sinks", "N", Kind::any_float, true, false},
    {"gradient of alibi_slopes", "N", Kind::any_float, true, false},
};

// Gradients that need their operand: places in results and operands.
constexpr std::pair<size_t, size_t> gradients_of_optional[] = {{3, 3}, {4, 5}, {5, 6}};
constexpr size_t query_segments = 7, key_value_segments = 8;

constexpr int64_t extent_limit = int64_t{1} << 31;

bool is_empty(const Buffer& buffer) {
  return std::find(buffer.dims.begin(), buffer.dims.end(), 0) != buffer.dims.end();
}

// An extent of 0 counts as 1: strides of empty arrays are computed too.
bool product_fits(int64_t start, const Dims& dims) {
  for (int64_t extent : dims)
    if (__builtin_mul_overflow(start, std::max<int64_t>(extent, 1), &start)) return false;
  return true;
}

bool valid_buffer(const Buffer& buffer) {
  const bool known =
      is_float(buffer.type) || buffer.type == XLA_FFI_DataType_S32 || buffer.type == XLA_FFI_DataType_PRED;
  const bool in_range = std::all_of(buffer.dims.begin(), buffer.dims.end(),
                                    [](int64_t extent) { return extent >= 0 && extent < extent_limit; });
  const bool placed = buffer.place == Place::aligned ||
                      (buffer.place == Place::misaligned && width_of(buffer.type) == 1);
  return buffer.is_buffer && known && in_range && product_fits(int64_t(width_of(buffer.type)), buffer.dims) &&
         (placed || is_empty(buffer));
}

bool valid_type(const Buffer& buffer, const Row& row, XLA_FFI_DataType query) {
  switch (row.kind) {
    case Kind::query_float: return buffer.type == query && is_float(query);
    case Kind::any_float: return is_float(buffer.type);
    case Kind::accumulator:
      return buffer.type == (query == XLA_FFI_DataType_F64 ? XLA_FFI_DataType_F64 : XLA_FFI_DataType_F32);
    case Kind::boolean: return buffer.type == XLA_FFI_DataType_PRED;
    case Kind::index: return buffer.type == XLA_FFI_DataType_S32;
  }
  return false;
}

bool conforms(const Dims& dims, const Row& row, const Extents& extents) {
  const size_t axes = extents.batch.size(), trailing = strlen(row.axes);
  if (dims.size() != axes + trailing) return false;
  for (size_t i = 0; i < axes; ++i)
    if (dims[i] != extents.batch[i] && (row.full_batch || dims[i] != 1)) return false;
  for (size_t i = 0; i < trailing; ++i) {
    const bool may_be_one = row.axes[i] >= 'a';
    if (dims[axes + i] != extents.of(row.axes[i]) && !(may_be_one && dims[axes + i] == 1)) return false;
  }
  return true;
}

bool read_extents(const Call& call, Extents& extents) {
  const Dims &query = call.operands[0].dims, &key = call.operands[1].dims, &value = call.operands[2].dims;
  if (query.size() < 4 || query.size() > 11 || key.size() != query.size() || value.size() != query.size()) return false;
  const size_t axes = query.size() - 3;
  if (!read_batch(call, axes, extents.batch)) return false;
  extents.T = query[axes], extents.N = query[axes + 1], extents.H = query[axes + 2];
  extents.S = key[axes], extents.K = key[axes + 1], extents.V = value[axes + 2];
  return true;
}

bool valid_attributes(const Call& call) {
  const auto find = [&](const char* name, XLA_FFI_DataType type) -> const Attribute* {
    for (const Attribute& attribute : call.attributes)
      if (attribute.name == name && attribute.kind == XLA_FFI_AttrType_SCALAR && attribute.type == type)
        return &attribute;
    return nullptr;
  };
  const auto integer = [&](const char* name, int64_t low, int64_t high) {
    const Attribute* found = find(name, XLA_FFI_DataType_S64);
    return found && int64_t(found->bits) >= low && int64_t(found->bits) <= high;
  };
  const auto number = [&](const char* name, bool may_be_zero) {
    const Attribute* found = find(name, XLA_FFI_DataType_F64);
    double value;
    if (!found) return false;
    memcpy(&value, &found->bits, sizeof value);
    return (value >= 0x1p-126 && value <= 0x1.fffffep127) || (may_be_zero && value == 0);
  };
  return integer("version", 1, 1) && number("scale", false) && number("logits_soft_cap", true) &&
         integer("window_left", -1, INT64_MAX) && integer("window_right", -1, INT64_MAX);
}

bool valid_arrays(const std::vector<Buffer>& buffers, std::span<const Row> rows, const Extents& extents,
                  XLA_FFI_DataType query, bool results) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const bool absent = is_absent(buffers[i]);
    if (absent && !rows[i].optional) return false;
    if (!absent && !conforms(buffers[i].dims, rows[i], extents)) return false;
    // The type of an absent operand says nothing; results are written, so theirs does.
    if ((!absent || results) && !valid_type(buffers[i], rows[i], query)) return false;
  }
  return true;
}

}  // namespace

std::span<const Row> operand_rows(bool backward) {
  return std::span<const Row>(rows_of_operands).first(backward ? std::size(rows_of_operands) : forward_operands);
}

std::span<const Row> result_rows(bool backward) {
  return backward ? std::span<const Row>(backward_results) : std::span<const Row>(forward_results);
}

bool is_float(XLA_FFI_DataType type) {
  return type == XLA_FFI_DataType_F32 || type == XLA_FFI_DataType_F64 || type == XLA_FFI_DataType_F16 ||
         type == XLA_FFI_DataType_BF16;
}

bool read_batch(const Call& call, size_t axes, Dims& batch) {
  batch.assign(axes, 1);
  for (const Buffer& buffer : call.operands) {
    if (is_absent(buffer)) continue;
    if (buffer.dims.size() < axes) return false;
    for (size_t i = 0; i < axes; ++i) {
      if (buffer.dims[i] == 1) continue;
      if (batch[i] != 1 && batch[i] != buffer.dims[i]) return false;
      batch[i] = buffer.dims[i];
    }
  }
  return true;
}

bool valid(const Call& call) {
  const std::span<const Row> operands = operand_rows(call.backward), results = result_rows(call.backward);
  if (call.stage != XLA_FFI_ExecutionStage_EXECUTE || !valid_attributes(call)) return false;
  if (call.operands.size() != operands.size() || call.results.size() != results.size()) return false;
  if (!std::all_of(call.operands.begin(), call.operands.end(), valid_buffer)) return false;
  if (!std::all_of(call.results.begin(), call.results.end(), valid_buffer)) return false;

  Extents extents;
  if (!read_extents(call, extents)) return false;
  if (extents.N < 1 || extents.K < 1 || extents.N % extents.K != 0 || extents.H < 1 || extents.V < 1) return false;
  Dims all_rows = extents.batch;
  all_rows.insert(all_rows.end(), {extents.N, extents.T, 256});
  const XLA_FFI_DataType query = call.operands[0].type;
  if (!product_fits(1, all_rows) || !valid_arrays(call.operands, operands, extents, query, false) ||
      !valid_arrays(call.results, results, extents, query, true))
    return false;
  if (is_absent(call.operands[query_segments]) != is_absent(call.operands[key_value_segments])) return false;
  if (call.backward)
    for (auto [result, operand] : gradients_of_optional)
      if (!is_empty(call.results[result]) && is_empty(call.operands[operand])) return false;
  return true;
}

double work(const Call& call) {
  Extents extents;
  if (!read_extents(call, extents)) return 0;
  double product = double(extents.N) * double(extents.T) * double(extents.S + 1) * double(extents.H + extents.V);
  for (int64_t extent : extents.batch) product *= double(extent);
  return product;
}
