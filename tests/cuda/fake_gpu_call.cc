// Calls a handler of platform CUDA as XLA would, without XLA's CUDA client: a stream, a stage, buffers; from Python.
#include <cstring>
#include <string>

#include "../ffi/call_frame.h"

namespace {

XLA_FFI_Handler* the_handler = nullptr;
void* the_stream = nullptr;
XLA_FFI_Extension_Base* the_extension = nullptr;

// In the place of the handler: adds to the frame what a CPU's has not.
XLA_FFI_Error* with_stream(XLA_FFI_CallFrame* frame) {
  static const XLA_FFI_Api api = [] {
    XLA_FFI_Api made = *fake_api();
    made.XLA_FFI_Stream_Get = [](XLA_FFI_Stream_Get_Args* args) -> XLA_FFI_Error* {
      args->stream = the_stream;
      return nullptr;
    };
    return made;
  }();
  frame->api = &api;
  frame->extension_start = the_extension;
  return the_handler(frame);
}

Attribute attribute(const char* name, XLA_FFI_DataType type, uint64_t bits) { return {name, type, bits}; }

}  // namespace

struct Row {
  int32_t type;
  int32_t rank;
  int64_t dims[5];
  void* data;
};

// 0, or the code of the error, whose words are then in `words`. One call at a time.
extern "C" int call(XLA_FFI_Handler* handler, int stage, void* stream, const Row* rows, int operands, int results,
                    char* words, size_t size) {
  Call call;
  call.stage = static_cast<XLA_FFI_ExecutionStage>(stage);
  for (int i = 0; i < operands + results; ++i) {
    Buffer buffer;
    buffer.type = static_cast<XLA_FFI_DataType>(rows[i].type);
    buffer.dims.assign(rows[i].dims, rows[i].dims + rows[i].rank);
    buffer.data = static_cast<unsigned char*>(rows[i].data);
    (i < operands ? call.operands : call.results).push_back(std::move(buffer));
  }
  const double one = 1;
  uint64_t scale = 0;
  std::memcpy(&scale, &one, sizeof scale);
  call.attributes = {attribute("version", XLA_FFI_DataType_S64, 1),
                     attribute("scale", XLA_FFI_DataType_F64, scale),
                     attribute("logits_soft_cap", XLA_FFI_DataType_F64, 0),
                     attribute("window_left", XLA_FFI_DataType_S64, ~uint64_t{0}),
                     attribute("window_right", XLA_FFI_DataType_S64, ~uint64_t{0}),
                     attribute("deterministic", XLA_FFI_DataType_PRED, 0)};
  InlinePool context(1);
  the_handler = handler;
  the_stream = stream;
  the_extension = nullptr;
  const auto error = Frame(call, &context).run(with_stream);
  std::strncpy(words, error ? error->message.c_str() : "", size - 1);
  return error ? static_cast<int>(error->code) : 0;
}

extern "C" unsigned traits(XLA_FFI_Handler* handler) {
  XLA_FFI_Metadata metadata = {};
  metadata.struct_size = XLA_FFI_Metadata_STRUCT_SIZE;
  XLA_FFI_Metadata_Extension extension = {
      {XLA_FFI_Metadata_Extension_STRUCT_SIZE, XLA_FFI_Extension_Metadata, nullptr}, &metadata};
  Call call;
  InlinePool context(1);
  the_handler = handler;
  the_extension = &extension.extension_base;
  Frame(call, &context).run(with_stream);
  return metadata.traits;
}
