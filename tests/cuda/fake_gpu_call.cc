// Calls a handler of platform CUDA as XLA would, without XLA's CUDA client: a stream, a stage, buffers; from Python.
#include <chrono>
#include <cstring>
#include <string>

#include "../ffi/call_frame.h"

namespace {

// Of the call that this thread makes.
thread_local XLA_FFI_Handler* the_handler = nullptr;
thread_local void* the_stream = nullptr;
thread_local FakeXlaExtension* the_extension = nullptr;
thread_local int the_repeats = 1;
thread_local double the_seconds = 0;

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
  XLA_FFI_Error* error = nullptr;
  const auto before = std::chrono::steady_clock::now();
  for (int i = 0; i < the_repeats && !error; ++i) error = the_handler(frame);
  the_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
  return error;
}

template <class Value>
Attribute attribute(const char* name, XLA_FFI_DataType type, Value value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return {name, type, bits};
}

}  // namespace

struct Row {
  int32_t type;
  int32_t rank;
  int64_t dims[6];
  void* data;
};

struct Request {
  XLA_FFI_Handler* handler;
  int32_t stage, repeats;
  void* stream;
  const Row* rows;
  int32_t operands, results;
  double scale, logits_soft_cap;
  int64_t window_left, window_right;
  double seconds;  // that the calls took together
  char words[1024];
};

// 0, or the code of the error, whose words are then in `words`.
extern "C" int call(Request* request) {
  Call call;
  call.stage = static_cast<XLA_FFI_ExecutionStage>(request->stage);
  for (int i = 0; i < request->operands + request->results; ++i) {
    const Row& row = request->rows[i];
    Buffer buffer;
    buffer.type = static_cast<XLA_FFI_DataType>(row.type);
    buffer.dims.assign(row.dims, row.dims + row.rank);
    buffer.data = static_cast<unsigned char*>(row.data);
    (i < request->operands ? call.operands : call.results).push_back(std::move(buffer));
  }
  call.attributes = {attribute("version", XLA_FFI_DataType_S64, int64_t{1}),
                     attribute("scale", XLA_FFI_DataType_F64, request->scale),
                     attribute("logits_soft_cap", XLA_FFI_DataType_F64, request->logits_soft_cap),
                     attribute("window_left", XLA_FFI_DataType_S64, request->window_left),
                     attribute("window_right", XLA_FFI_DataType_S64, request->window_right),
                     attribute("deterministic", XLA_FFI_DataType_PRED, false)};
  InlinePool context(1);
  the_handler = request->handler;
  the_stream = request->stream;
  the_extension = nullptr;
  the_repeats = request->repeats;
  const auto error = Frame(call, &context).run(with_stream);
  request->seconds = the_seconds;
  std::strncpy(request->words, error ? error->message.c_str() : "", sizeof request->words - 1);
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
  the_repeats = 1;
  Frame(call, &context).run(with_stream);
  return metadata.traits;
}
