// A call as plain data, which can be changed freely, and the frame that XLA would make of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "fake_xla.h"

using Dims = std::vector<int64_t>;

enum class Place { aligned, misaligned, null };

struct Buffer {
  XLA_FFI_DataType type = XLA_FFI_DataType_F32;
  Dims dims;
  Place place = Place::aligned;
  bool is_buffer = true;  // its type in the frame

  // Set by point_nowhere() or allocate().
  std::unique_ptr<unsigned char[]> memory;
  unsigned char* data = nullptr;
  size_t bytes = 0;
};

struct Attribute {
  std::string name;
  XLA_FFI_DataType type = XLA_FFI_DataType_S64;
  uint64_t bits = 0;
  XLA_FFI_AttrType kind = XLA_FFI_AttrType_SCALAR;
};

struct Call {
  bool backward = false;
  std::vector<Buffer> operands, results;
  std::vector<Attribute> attributes;
  XLA_FFI_ExecutionStage stage = XLA_FFI_ExecutionStage_EXECUTE;
};

// In bytes, of the types that a valid call may have.
inline size_t width_of(XLA_FFI_DataType type) {
  switch (type) {
    case XLA_FFI_DataType_F64: return 8;
    case XLA_FFI_DataType_F32: case XLA_FFI_DataType_S32: return 4;
    case XLA_FFI_DataType_F16: case XLA_FFI_DataType_BF16: return 2;
    default: return 1;
  }
}

// Points where nothing can be read or written, aligned as the buffer asks.
inline void point_nowhere(Buffer& buffer) {
  const uintptr_t address = buffer.place == Place::null ? 0 : buffer.place == Place::misaligned ? 65 : 64;
  buffer.data = reinterpret_cast<unsigned char*>(address);
}

// Exactly the memory that the extents of a valid buffer ask for, on its own, so that AddressSanitizer sees any step
// beyond it. False where that would be more than `limit` bytes.
inline bool allocate(Buffer& buffer, int64_t limit) {
  int64_t bytes = int64_t(width_of(buffer.type));
  for (int64_t extent : buffer.dims) bytes *= extent;
  point_nowhere(buffer);
  if (bytes == 0) return true;
  if (bytes > limit) return false;
  buffer.bytes = size_t(bytes);
  // An address that is odd is misaligned for all but bool, for which a valid call may have it.
  const size_t shift = buffer.place == Place::misaligned ? 1 : 0;
  buffer.memory.reset(new unsigned char[buffer.bytes + shift]);
  buffer.data = buffer.memory.get() + shift;
  return true;
}

// Owns everything that a frame points to, each array with memory of its own.
class Frame {
 public:
  Frame(Call& call, XLA_FFI_ExecutionContext* context) : attributes_(call.attributes.size()) {
    frame_.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
    frame_.api = fake_api();
    frame_.ctx = context;
    frame_.stage = call.stage;
    operand_types_.reserve(call.operands.size());
    operands_.reserve(call.operands.size());
    result_types_.reserve(call.results.size());
    results_.reserve(call.results.size());
    buffers_.reserve(call.operands.size() + call.results.size());
    for (Buffer& buffer : call.operands) {
      operand_types_.push_back(buffer.is_buffer ? XLA_FFI_ArgType_BUFFER : XLA_FFI_ArgType{});
      buffers_.push_back(made(buffer));
    }
    for (Buffer& buffer : call.results) {
      result_types_.push_back(buffer.is_buffer ? XLA_FFI_RetType_BUFFER : XLA_FFI_RetType{});
      buffers_.push_back(made(buffer));
    }
    for (size_t i = 0; i < buffers_.size(); ++i)
      (i < call.operands.size() ? operands_ : results_).push_back(&buffers_[i]);
    const int64_t operands = int64_t(operands_.size()), results = int64_t(results_.size());
    frame_.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, operands, operand_types_.data(), operands_.data()};
    frame_.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, results, result_types_.data(), results_.data()};
    add_attributes(call);
  }
  Frame(const Frame&) = delete;

  // The error, which XLA would own, or null.
  std::unique_ptr<XLA_FFI_Error> run(XLA_FFI_Handler* handler) {
    return std::unique_ptr<XLA_FFI_Error>(handler(&frame_));
  }

 private:
  struct Value {
    XLA_FFI_ByteSpan name;
    XLA_FFI_Scalar scalar;
    XLA_FFI_Array array;
    XLA_FFI_ByteSpan text;
    XLA_FFI_Attrs dictionary;
  };

  static XLA_FFI_Buffer made(Buffer& from) {
    return {XLA_FFI_Buffer_STRUCT_SIZE, nullptr,         from.type, from.data,
            int64_t(from.dims.size()),  from.dims.data()};
  }

  // XLA sorts attributes by name, and handlers search them so.
  void add_attributes(Call& call) {
    attribute_types_.reserve(attributes_.size());
    attribute_names_.reserve(attributes_.size());
    attribute_values_.reserve(attributes_.size());
    std::sort(call.attributes.begin(), call.attributes.end(),
              [](const Attribute& a, const Attribute& b) { return a.name < b.name; });
    for (size_t i = 0; i < attributes_.size(); ++i) {
      Attribute& from = call.attributes[i];
      Value& to = attributes_[i];
      to.name = {from.name.data(), from.name.size()};
      to.scalar = {from.type, &from.bits};
      to.array = {from.type, 1, &from.bits};
      to.text = {from.name.data(), from.name.size()};
      to.dictionary = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr, 0, nullptr, nullptr, nullptr};
      attribute_types_.push_back(from.kind);
      attribute_names_.push_back(&to.name);
      attribute_values_.push_back(from.kind == XLA_FFI_AttrType_SCALAR       ? static_cast<void*>(&to.scalar)
                                  : from.kind == XLA_FFI_AttrType_ARRAY      ? static_cast<void*>(&to.array)
                                  : from.kind == XLA_FFI_AttrType_DICTIONARY ? static_cast<void*>(&to.dictionary)
                                                                             : static_cast<void*>(&to.text));
    }
    frame_.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr,                 int64_t(attributes_.size()),
                    attribute_types_.data(),   attribute_names_.data(), attribute_values_.data()};
  }

  XLA_FFI_CallFrame frame_ = {};
  std::vector<XLA_FFI_ArgType> operand_types_;
  std::vector<XLA_FFI_RetType> result_types_;
  std::vector<XLA_FFI_Buffer> buffers_;
  std::vector<void*> operands_, results_;
  std::vector<Value> attributes_;
  std::vector<XLA_FFI_AttrType> attribute_types_;
  std::vector<XLA_FFI_ByteSpan*> attribute_names_;
  std::vector<void*> attribute_values_;
};
