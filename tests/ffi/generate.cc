#include "generate.h"

namespace {

XLA_FFI_DataType random_float(Prng& random) {
  return random.pick({XLA_FFI_DataType_F32, XLA_FFI_DataType_F32, XLA_FFI_DataType_BF16, XLA_FFI_DataType_F16,
                      XLA_FFI_DataType_F64});
}

// One of the query's type for most calls of a kind, any other type for some.
XLA_FFI_DataType random_type(Prng& random, Kind kind, XLA_FFI_DataType query) {
  switch (kind) {
    case Kind::query_float: return query;
    case Kind::any_float: return random.chance(70) ? query : random_float(random);
    case Kind::accumulator: return query == XLA_FFI_DataType_F64 ? XLA_FFI_DataType_F64 : XLA_FFI_DataType_F32;
    case Kind::boolean: return XLA_FFI_DataType_PRED;
    case Kind::index: return XLA_FFI_DataType_S32;
  }
  return query;
}

Buffer random_operand(Prng& random, const Row& row, const Extents& extents, XLA_FFI_DataType query) {
  Buffer operand;
  operand.type = random_type(random, row.kind, query);
  operand.dims.reserve(extents.batch.size() + 3);
  for (int64_t extent : extents.batch) operand.dims.push_back(random.chance(25) ? 1 : extent);
  for (const char* axis = row.axes; *axis; ++axis)
    operand.dims.push_back(*axis >= 'a' && random.chance(40) ? 1 : extents.of(*axis));
  return operand;
}

Buffer absent(Prng& random) {
  Buffer buffer;
  buffer.dims = {0};
  buffer.place = random.chance(50) ? Place::null : Place::aligned;
  return buffer;
}

// `of` is the operand whose gradient this is, or null. A gradient has its operand's extents, on a shared batch axis
// either 1 or the full extent.
Buffer random_result(Prng& random, const Row& row, const Extents& extents, const Buffer* of, XLA_FFI_DataType query) {
  if (row.optional && ((of && is_absent(*of)) || random.chance(25))) return absent(random);
  Buffer result;
  result.type = random_type(random, row.kind, query);
  const size_t axes = extents.batch.size();
  result.dims.reserve(axes + 3);
  for (size_t i = 0; i < axes; ++i)
    result.dims.push_back(row.full_batch || of->dims[i] != 1 || random.chance(30) ? extents.batch[i] : 1);
  if (of)
    result.dims.insert(result.dims.end(), of->dims.begin() + int64_t(axes), of->dims.end());
  else
    for (const char* axis = row.axes; *axis; ++axis) result.dims.push_back(extents.of(*axis));
  return result;
}

void add_attributes(Prng& random, Call& call) {
  const auto window = [&] { return random.chance(50) ? -1 : random.between(0, 6); };
  call.attributes = {integer("version", 1),
                     number("scale", random.pick({0.5, 1.0, 0.1, 3.0})),
                     number("logits_soft_cap", random.chance(70) ? 0.0 : random.pick({0.5, 20.0})),
                     integer("window_left", window()),
                     integer("window_right", window())};
  for (const char* name : {"deterministic", "differentiated"}) {
    Attribute flag = integer(name, random.below(2));
    flag.type = XLA_FFI_DataType_PRED;
    call.attributes.push_back(flag);
  }
}

struct Format {
  uint64_t sign_and_mantissa, infinity, half;
};

constexpr Format format_of(XLA_FFI_DataType type) {
  switch (type) {
    case XLA_FFI_DataType_F64: return {0x800fffffffffffff, 0x7ff0000000000000, 0x3fe0000000000000};
    case XLA_FFI_DataType_F16: return {0x83ff, 0x7c00, 0x3800};
    case XLA_FFI_DataType_BF16: return {0x807f, 0x7f80, 0x3f00};
    default: return {0x807fffff, 0x7f800000, 0x3f000000};
  }
}

// Between 1/2 and 1, of either sign.
uint64_t ordinary(XLA_FFI_DataType type, uint64_t noise) {
  const Format format = format_of(type);
  return (noise & format.sign_and_mantissa) | format.half;
}

uint64_t special(XLA_FFI_DataType type, uint64_t noise) {
  const Format format = format_of(type);
  const uint64_t sign = format.sign_and_mantissa & ~(format.sign_and_mantissa >> 1);
  switch (noise >> 60) {
    case 0: case 1: case 2: return format.infinity;
    case 3: case 4: case 5: return format.infinity | sign;
    case 6: case 7: return format.infinity | (noise & format.sign_and_mantissa);  // NaN
    case 8: case 9: return noise & format.sign_and_mantissa;                      // denormal
    case 10: return 0;
    case 11: return sign;
    default: return noise;
  }
}

uint32_t random_index(uint64_t noise) {
  constexpr int32_t extremes[] = {INT32_MIN, INT32_MAX, INT32_MIN + 1, INT32_MAX - 1, -1, 0, 64, 65};
  return uint32_t(noise % 8 == 0 ? extremes[noise >> 32 & 7] : int32_t(noise >> 32 & 7) - 2);
}

void fill(Prng& random, Buffer& operand, bool is_index) {
  const size_t width = width_of(operand.type);
  const bool wild = random.chance(20);
  for (size_t at = 0; at + width <= operand.bytes; at += width) {
    const uint64_t noise = random.next();
    uint64_t bits = noise;
    if (is_index) bits = random_index(noise);
    else if (width >= 2) bits = wild && noise % 5 == 0 ? special(operand.type, noise) : ordinary(operand.type, noise);
    memcpy(operand.data + at, &bits, width);
  }
}

uint64_t mark_of(XLA_FFI_DataType type) {
  switch (type) {
    case XLA_FFI_DataType_F64: return 0x7ff5a5a5a5a5a5a5;
    case XLA_FFI_DataType_F16: return 0x7da5;
    case XLA_FFI_DataType_BF16: return 0x7fa5;
    default: return 0x7fa5a5a5;
  }
}

}  // namespace

Attribute integer(const char* name, int64_t value) { return {name, XLA_FFI_DataType_S64, uint64_t(value)}; }

Attribute number(const char* name, double value) {
  Attribute attribute = {name, XLA_FFI_DataType_F64};
  memcpy(&attribute.bits, &value, sizeof value);
  return attribute;
}

Extents random_extents(Prng& random, int64_t largest) {
  const auto length = [&] { return random.chance(3) ? random.between(0, largest) : random.between(0, 5); };
  const auto dim = [&] { return random.chance(3) ? random.between(1, 40) : random.between(1, 6); };
  Extents extents;
  const int64_t axes = random.chance(2) ? random.between(1, 8) : random.chance(80) ? 2 : random.pick({1, 3});
  for (int64_t i = 0; i < axes; ++i) extents.batch.push_back(random.chance(2) ? 0 : random.pick({1, 1, 2, 2, 3}));
  if (axes > 3)
    for (int64_t& extent : extents.batch) extent = std::min<int64_t>(extent, 2);
  extents.T = length();
  extents.S = length();
  extents.K = random.between(1, 2);
  extents.N = extents.K * random.pick({1, 1, 2, 3});
  extents.H = dim();
  extents.V = dim();
  return extents;
}

Call random_call(Prng& random, const Extents& extents) {
  Call call;
  call.backward = random.chance(50);
  const XLA_FFI_DataType query = random_float(random);
  const bool segments = random.chance(25);
  call.operands.reserve(operand_rows(call.backward).size());
  for (const Row& row : operand_rows(call.backward)) {
    const bool given = strstr(row.name, "segment_ids") ? segments : !row.optional || random.chance(30);
    call.operands.push_back(given ? random_operand(random, row, extents, query) : absent(random));
  }
  // Where every operand shares a batch axis, the call has extent 1 there.
  Extents own = extents;
  read_batch(call, extents.batch.size(), own.batch);
  const std::span<const Row> rows = result_rows(call.backward);
  call.results.reserve(rows.size());
  constexpr size_t differentiable[] = {0, 1, 2, 3, 5, 6};
  for (size_t i = 0; i < rows.size(); ++i)
    call.results.push_back(
        random_result(random, rows[i], own, call.backward ? &call.operands[differentiable[i]] : nullptr, query));
  add_attributes(random, call);
  return call;
}

void fill_operands(Prng& random, Call& call) {
  const std::span<const Row> rows = operand_rows(call.backward);
  for (size_t i = 0; i < call.operands.size(); ++i) fill(random, call.operands[i], rows[i].kind == Kind::index);
}

void mark(Buffer& result) {
  const uint64_t bits = mark_of(result.type);
  const size_t width = width_of(result.type);
  for (size_t at = 0; at + width <= result.bytes; at += width) memcpy(result.data + at, &bits, width);
}

size_t count_marked(const Buffer& result) {
  const uint64_t bits = mark_of(result.type);
  const size_t width = width_of(result.type);
  size_t count = 0;
  for (size_t at = 0; at + width <= result.bytes; at += width) count += memcmp(result.data + at, &bits, width) == 0;
  return count;
}
