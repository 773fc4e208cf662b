#include "spec.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace jax_fa4 {
namespace {

namespace ffi = xla::ffi;

// A shape, without memory of its own to allocate: tiny calls are read in less than a microsecond. Nothing has more axes
// than those of the batch and three; what does is refused before it is kept.
class Dims {
 public:
  static constexpr size_t most = max_batch_axes + 3;

  Dims() = default;
  Dims(std::initializer_list<int64_t> extents) { append(extents.begin(), extents.end()); }

  template <class Iterator>
  void append(Iterator first, Iterator last) {
    for (; first != last && size_ < most; ++first) extents_[size_++] = *first;
  }
  void push_back(int64_t extent) { append(&extent, &extent + 1); }
  void append(const Dims& others) { append(others.begin(), others.end()); }

  size_t size() const { return size_; }
  const int64_t* begin() const { return extents_; }
  const int64_t* end() const { return extents_ + size_; }
  int64_t operator[](size_t axis) const { return extents_[axis]; }
  int64_t& operator[](size_t axis) { return extents_[axis]; }

 private:
  size_t size_ = 0;
  int64_t extents_[most] = {};
};

constexpr int64_t any_extent = -1;           // in an expected shape: any
constexpr int64_t one_or = int64_t{1} << 40;  // one_or + n: 1 or n
constexpr int64_t longest = std::numeric_limits<int32_t>::max();

// The order of operands and results; jax_fa4/calls.py has the same.
enum ForwardOperand { query, key, value, bias, mask, sinks, alibi_slopes, query_segment_ids, key_value_segment_ids,
                      query_seq_lengths, key_value_seq_lengths, query_offset, forward_operands };
enum BackwardOperand { output = forward_operands, log_sum_exp, output_gradient, log_sum_exp_gradient, backward_operands };

constexpr const char* operand_names[] = {
    "query", "key", "value", "bias", "mask", "sinks", "alibi_slopes", "query_segment_ids", "key_value_segment_ids",
    "query_seq_lengths", "key_value_seq_lengths", "query_offset",
    "output", "log_sum_exp", "output_gradient", "log_sum_exp_gradient"};

std::optional<Element> element_of(ffi::DataType type) {
  switch (type) {
    case ffi::F32: return Element::f32;
    case ffi::BF16: return Element::bf16;
    case ffi::F16: return Element::f16;
    case ffi::F64: return Element::f64;
    case ffi::S32: return Element::i32;
    case ffi::PRED: return Element::boolean;
    default: return std::nullopt;
  }
}

bool is_float(Element element) { return element != Element::i32 && element != Element::boolean; }

// Whether a product of extents stays below 2^63, where 0 counts as 1: strides of empty arrays are products too.
bool within_range(int64_t product, const Dims& extents) {
  for (int64_t extent : extents)
    if (__builtin_mul_overflow(product, extent < 1 ? 1 : extent, &product)) return false;
  return true;
}

std::string text_of(const Dims& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) {
    if (i) text += ", ";
    if (dims[i] == any_extent) text += "any";
    else if (dims[i] >= one_or) text += "1 or " + std::to_string(dims[i] - one_or);
    else text += std::to_string(dims[i]);
  }
  return text + "]";
}

// A buffer as it came: checked to have a known element type, sane extents and aligned memory.
struct Array {
  const char* name = "";
  Dims dims;
  Element element = Element::f32;
  void* data = nullptr;

  bool absent() const { return dims.size() == 1 && dims[0] == 0; }
};

// Collects the first thing that is wrong; later reads are harmless.
class Reader {
 public:
  explicit Reader(const char* call) : call_(call) {}

  void refuse(const std::string& words) {
    if (error_.empty()) error_ = std::string(call_) + ": " + words;
  }
  bool failed() const { return !error_.empty(); }
  ffi::Error error() const { return ffi::Error::InvalidArgument(error_); }

  Array array(const char* name, ffi::AnyBuffer buffer) {
    Array array;
    array.name = name;
    const auto dims = buffer.dimensions();
    if (dims.size() > Dims::most) {
      refuse(std::string(name) + " has " + std::to_string(dims.size()) + " axes; allowed are at most " +
             std::to_string(Dims::most));
      return array;
    }
    array.dims.append(dims.begin(), dims.end());
    const std::optional<Element> element = element_of(buffer.element_type());
    if (!element) {
      refuse(std::string(name) + " has an element type that is not float32, bfloat16, float16, float64, int32 or bool");
      return array;
    }
    array.element = *element;
    array.data = buffer.untyped_data();
    check_extents(array);
    return array;
  }

  void expect_element(const Array& array, bool right, const char* allowed) {
    if (!right) refuse(std::string(array.name) + " has a wrong element type; allowed: " + allowed);
  }

  double number(const ffi::Dictionary& attributes, const char* name) { return get<double>(attributes, name); }
  int64_t integer(const ffi::Dictionary& attributes, const char* name) { return get<int64_t>(attributes, name); }
  // Programs that were exported before there was one have none.
  static bool flag(const ffi::Dictionary& attributes, const char* name) {
    return attributes.contains<bool>(name) && *attributes.get<bool>(name);
  }

 private:
  template <class T>
  T get(const ffi::Dictionary& attributes, const char* name) {
    // get() would print the type that it found, and XLA's printers have no answer for types that they do not know.
    if (attributes.contains<T>(name)) return *attributes.get<T>(name);
    refuse(std::string("attribute ") + name + " is missing or of a wrong type");
    return T{};
  }

  void check_extents(const Array& array) {
    for (int64_t extent : array.dims)
      if (extent < 0 || extent > longest) return refuse(array.name + std::string(" has an extent not in [0, 2^31)"));
    if (!within_range(int64_t(bytes_of(array.element)), array.dims)) return refuse(array.name + std::string(" is too large"));
    if (std::find(array.dims.begin(), array.dims.end(), 0) != array.dims.end()) return;
    if (!array.data || reinterpret_cast<uintptr_t>(array.data) % bytes_of(array.element) != 0)
      refuse(std::string(array.name) + " has no memory or misaligned memory");
  }

  const char* call_;
  std::string error_;
};

// The batch axes of a call: full extents, to which every operand conforms with the same extent or 1.
class Batch {
 public:
  explicit Batch(Reader& reader) : reader_(reader) {}

  void read(const std::vector<Array>& arrays) {
    const int64_t axes = int64_t(arrays[query].dims.size()) - 3;
    if (axes < 1 || axes > max_batch_axes)
      return reader_.refuse("query has shape " + text_of(arrays[query].dims) +
                            "; allowed are 1 to 8 batch axes, then T, N, H");
    for (int64_t axis = 0; axis < axes; ++axis) extents_.push_back(1);
    for (const Array& array : arrays) {
      if (array.absent()) continue;
      if (array.dims.size() < extents_.size()) return reader_.refuse(std::string(array.name) + " has too few axes");
      for (size_t axis = 0; axis < extents_.size(); ++axis) widen(array, axis);
    }
  }

  const Dims& extents() const { return extents_; }

  // The operand's data and batch strides, after its shape was compared with the batch axes + trailing.
  // `full`: no batch axis may be shared.
  Operand operand(const Array& array, const Dims& trailing, bool full = false) {
    Operand result;
    if (array.absent() || reader_.failed()) return result;
    Dims expected;
    for (int64_t extent : extents_) expected.push_back(full || extent == 1 ? extent : one_or + extent);
    expected.append(trailing);
    bool fits = array.dims.size() == expected.size();
    for (size_t i = 0; fits && i < expected.size(); ++i)
      fits = expected[i] == any_extent || array.dims[i] == expected[i] ||
             (expected[i] >= one_or && (array.dims[i] == 1 || array.dims[i] == expected[i] - one_or));
    if (!fits) {
      reader_.refuse(std::string(array.name) + " has shape " + text_of(array.dims) + "; expected " + text_of(expected));
      return result;
    }
    int64_t stride = 1;
    for (size_t i = extents_.size(); i < array.dims.size(); ++i) stride *= array.dims[i];
    result.batch.axes = int(extents_.size());
    for (int axis = result.batch.axes - 1; axis >= 0; --axis) {
      result.batch.extent[axis] = extents_[size_t(axis)];
      result.batch.stride[axis] = array.dims[size_t(axis)] == 1 ? 0 : stride;
      stride *= array.dims[size_t(axis)];
    }
    result.data = stride == 0 ? nullptr : array.data;
    result.element = array.element;
    return result;
  }

  LogitsOperand logits_operand(const Array& array, int64_t heads, int64_t queries, int64_t keys) {
    LogitsOperand result;
    static_cast<Operand&>(result) = operand(array, {one_or + heads, one_or + queries, one_or + keys});
    if (!result) return result;
    const size_t first = extents_.size();
    const int64_t own_keys = array.dims[first + 2], own_queries = array.dims[first + 1];
    result.key_stride = own_keys == 1 ? 0 : 1;
    result.query_stride = own_queries == 1 ? 0 : own_keys;
    result.head_stride = array.dims[first] == 1 ? 0 : own_queries * own_keys;
    return result;
  }

  SharedBatches sharing(const Operand& result) const {
    SharedBatches batches;
    batches.axes = result.batch.axes;
    for (int axis = 0; axis < batches.axes; ++axis) {
      batches.extent[axis] = result.batch.extent[axis];
      batches.shared[axis] = result.batch.stride[axis] == 0;
      (batches.shared[axis] ? batches.sharers : batches.slabs) *= batches.extent[axis];
    }
    return batches;
  }

 private:
  void widen(const Array& array, size_t axis) {
    const int64_t extent = array.dims[axis];
    if (extent == 1 || extent == extents_[axis]) return;
    if (extents_[axis] != 1)
      return reader_.refuse(std::string(array.name) + " has shape " + text_of(array.dims) + " where the batch of others is " +
                            text_of(extents_) + "; allowed is the same extent or 1");
    extents_[axis] = extent;
  }

  Reader& reader_;
  Dims extents_;
};

std::vector<Array> read_operands(Reader& reader, const ffi::RemainingArgs& operands, size_t expected) {
  std::vector<Array> arrays;
  if (operands.size() != expected) {
    reader.refuse("got " + std::to_string(operands.size()) + " operands; expected " + std::to_string(expected));
    return arrays;
  }
  arrays.reserve(expected);
  for (size_t i = 0; i < expected; ++i)
    if (operands.isa<ffi::AnyBuffer>(i))
      arrays.push_back(reader.array(operand_names[i], *operands.get<ffi::AnyBuffer>(i)));
    else
      reader.refuse(std::string(operand_names[i]) + " is not a buffer");
  return arrays;
}

std::vector<Array> read_results(Reader& reader, const ffi::RemainingRets& results,
                                std::initializer_list<const char*> names) {
  std::vector<Array> arrays;
  if (results.size() != names.size()) {
    reader.refuse("got " + std::to_string(results.size()) + " results; expected " + std::to_string(names.size()));
    return arrays;
  }
  arrays.reserve(names.size());
  for (size_t i = 0; i < names.size(); ++i)
    if (results.isa<ffi::AnyBuffer>(i))
      arrays.push_back(reader.array(names.begin()[i], **results.get<ffi::AnyBuffer>(i)));
    else
      reader.refuse(std::string(names.begin()[i]) + " is not a buffer");
  return arrays;
}

void read_attributes(Reader& reader, const ffi::Dictionary& attributes, Problem& p) {
  const int64_t version = reader.integer(attributes, "version");
  if (version < 1) return reader.refuse("version " + std::to_string(version) + " of the calls never was; the first is 1");
  if (version > contract_version)
    return reader.refuse("this program was made for version " + std::to_string(version) +
                         " of the calls; this library knows up to " + std::to_string(contract_version) +
                         ": install a newer jax_fa4");
  p.scale = reader.number(attributes, "scale");
  p.soft_cap = reader.number(attributes, "logits_soft_cap");
  p.window_left = reader.integer(attributes, "window_left");
  p.window_right = reader.integer(attributes, "window_right");
  p.differentiated = Reader::flag(attributes, "differentiated");
  // They are used in float32 too: neither may become 0 or infinite there.
  using limits = std::numeric_limits<float>;
  const auto usable = [](double x) { return x >= double(limits::min()) && x <= double(limits::max()); };
  if (!usable(p.scale)) reader.refuse("scale must be finite and > 0, in float32 too");
  if (p.soft_cap != 0 && !usable(p.soft_cap))
    reader.refuse("logits_soft_cap must be finite and > 0, in float32 too, or 0 for none");
  if (p.window_left < -1 || p.window_right < -1) reader.refuse("windows must be >= 0, or -1 for no limit");
  // Positions span less than 2^33: a longer window is none, and sums with positions cannot overflow.
  if (p.window_left > longest * 4) p.window_left = -1;
  if (p.window_right > longest * 4) p.window_right = -1;
}

void check_elements(Reader& reader, const std::vector<Array>& arrays) {
  const Element element = arrays[query].element;
  for (int i : {query, key, value})
    reader.expect_element(arrays[size_t(i)], arrays[size_t(i)].element == element && is_float(element),
                          "one float type for query, key and value");
  for (int i : {bias, sinks, alibi_slopes})
    reader.expect_element(arrays[size_t(i)], arrays[size_t(i)].absent() || is_float(arrays[size_t(i)].element), "a float type");
  reader.expect_element(arrays[mask], arrays[mask].absent() || arrays[mask].element == Element::boolean, "bool");
  for (int i = query_segment_ids; i <= query_offset; ++i)
    reader.expect_element(arrays[size_t(i)], arrays[size_t(i)].absent() || arrays[size_t(i)].element == Element::i32, "int32");
  if (arrays[query_segment_ids].absent() != arrays[key_value_segment_ids].absent())
    reader.refuse("query_segment_ids and key_value_segment_ids come together");
}

// Everything that forward and backward share.
void read_call(Reader& reader, Batch& batch, const std::vector<Array>& arrays, Problem& p) {
  check_elements(reader, arrays);
  for (int i : {query, key, value})
    if (arrays[size_t(i)].dims.size() != batch.extents().size() + 3) reader.refuse(std::string(arrays[size_t(i)].name) + " has a wrong rank");
  if (reader.failed()) return;

  const size_t first = batch.extents().size();
  p.query_length = arrays[query].dims[first];
  p.query_heads = arrays[query].dims[first + 1];
  p.head_dim = arrays[query].dims[first + 2];
  p.key_length = arrays[key].dims[first];
  p.key_value_heads = arrays[key].dims[first + 1];
  p.value_head_dim = arrays[value].dims[first + 2];
  if (p.key_value_heads < 1 || p.query_heads < 1 || p.query_heads % p.key_value_heads != 0)
    return reader.refuse("query has " + std::to_string(p.query_heads) + " heads, key has " +
                         std::to_string(p.key_value_heads) + ": query heads must be a multiple of key heads");
  if (p.head_dim < 1 || p.value_head_dim < 1) return reader.refuse("head_dim must be at least 1");
  Dims rows = batch.extents();
  rows.append({p.query_heads, p.query_length});
  if (!within_range(256, rows))  // bytes of workspace per row, at most
    return reader.refuse("batch, query heads and query length are too large together");
  p.batch = 1;
  for (int64_t extent : batch.extents()) p.batch *= extent;

  p.query = batch.operand(arrays[query], {p.query_length, p.query_heads, p.head_dim});
  p.key = batch.operand(arrays[key], {p.key_length, p.key_value_heads, p.head_dim});
  p.value = batch.operand(arrays[value], {p.key_length, p.key_value_heads, p.value_head_dim});
  p.query.element = arrays[query].element;
  p.bias = batch.logits_operand(arrays[bias], p.query_heads, p.query_length, p.key_length);
  p.mask = batch.logits_operand(arrays[mask], p.query_heads, p.query_length, p.key_length);
  p.sinks = batch.operand(arrays[sinks], {p.query_heads});
  p.alibi_slopes = batch.operand(arrays[alibi_slopes], {p.query_heads});
  p.query_segment_ids = batch.operand(arrays[query_segment_ids], {p.query_length});
  p.key_value_segment_ids = batch.operand(arrays[key_value_segment_ids], {p.key_length});
  p.query_seq_lengths = batch.operand(arrays[query_seq_lengths], {});
  p.key_value_seq_lengths = batch.operand(arrays[key_value_seq_lengths], {});
  p.query_offset = batch.operand(arrays[query_offset], {});
}

void expect_log_sum_exp(Reader& reader, const Problem& p, const Array& array) {
  const Element expected = p.double_precision() ? Element::f64 : Element::f32;
  reader.expect_element(array, array.element == expected, "float32, or float64 where the query is");
}

}  // namespace

ffi::ErrorOr<Problem> read_forward(ffi::RemainingArgs operands, ffi::RemainingRets results,
                                   ffi::Dictionary attributes) {
  Reader reader("jax_fa4 forward");
  Problem p;
  read_attributes(reader, attributes, p);
  const std::vector<Array> arrays = read_operands(reader, operands, forward_operands);
  const std::vector<Array> to = read_results(reader, results, {"output", "log_sum_exp"});
  if (reader.failed()) return ffi::Unexpected(reader.error());
  Batch batch(reader);
  batch.read(arrays);
  if (!reader.failed()) read_call(reader, batch, arrays, p);
  for (const Array& array : to)
    if (array.absent()) reader.refuse(std::string(array.name) + " is missing");
  if (reader.failed()) return ffi::Unexpected(reader.error());
  p.output = batch.operand(to[0], {p.query_length, p.query_heads, p.value_head_dim}, true);
  p.log_sum_exp = batch.operand(to[1], {p.query_heads, p.query_length}, true);
  reader.expect_element(to[0], is_float(to[0].element), "a float type");
  expect_log_sum_exp(reader, p, to[1]);
  if (reader.failed()) return ffi::Unexpected(reader.error());
  return p;
}

ffi::ErrorOr<Problem> read_backward(ffi::RemainingArgs operands, ffi::RemainingRets results,
                                    ffi::Dictionary attributes) {
  Reader reader("jax_fa4 backward");
  Problem p;
  read_attributes(reader, attributes, p);
  const std::vector<Array> arrays = read_operands(reader, operands, backward_operands);
  const std::vector<Array> to = read_results(reader, results,
                                             {"gradient of query", "gradient of key", "gradient of value",
                                              "gradient of bias", "gradient of sinks", "gradient of alibi_slopes"});
  if (reader.failed()) return ffi::Unexpected(reader.error());
  Batch batch(reader);
  batch.read(arrays);
  if (!reader.failed()) read_call(reader, batch, arrays, p);
  if (reader.failed()) return ffi::Unexpected(reader.error());

  for (int i : {output, output_gradient})
    reader.expect_element(arrays[size_t(i)], is_float(arrays[size_t(i)].element), "a float type");
  for (int i : {log_sum_exp, log_sum_exp_gradient}) expect_log_sum_exp(reader, p, arrays[size_t(i)]);
  for (const Array& array : to) reader.expect_element(array, is_float(array.element), "a float type");
  const Dims output_shape = {p.query_length, p.query_heads, p.value_head_dim};
  const Dims row_shape = {p.query_heads, p.query_length};
  p.output = batch.operand(arrays[output], output_shape);
  p.log_sum_exp = batch.operand(arrays[log_sum_exp], row_shape);
  p.output_gradient = batch.operand(arrays[output_gradient], output_shape);
  p.log_sum_exp_gradient = batch.operand(arrays[log_sum_exp_gradient], row_shape);

  Gradients& gradients = p.gradients;
  gradients.query = batch.operand(to[0], {p.query_length, p.query_heads, p.head_dim}, true);
  gradients.key = batch.operand(to[1], {p.key_length, p.key_value_heads, p.head_dim}, true);
  gradients.value = batch.operand(to[2], {p.key_length, p.key_value_heads, p.value_head_dim}, true);
  gradients.bias = batch.logits_operand(to[3], p.query_heads, p.query_length, p.key_length);
  gradients.sinks = batch.operand(to[4], {p.query_heads});
  gradients.alibi_slopes = batch.operand(to[5], {p.query_heads});
  for (int i : {output, log_sum_exp, output_gradient, log_sum_exp_gradient})
    if (arrays[size_t(i)].absent()) reader.refuse(std::string(arrays[size_t(i)].name) + " is missing");
  if ((gradients.bias && !p.bias) || (gradients.sinks && !p.sinks) || (gradients.alibi_slopes && !p.alibi_slopes))
    reader.refuse("a gradient is asked for of an operand that is absent");
  if (reader.failed()) return ffi::Unexpected(reader.error());
  gradients.bias_batches = batch.sharing(gradients.bias);
  gradients.sinks_batches = batch.sharing(gradients.sinks);
  gradients.slopes_batches = batch.sharing(gradients.alibi_slopes);
  return p;
}

}  // namespace jax_fa4
