// The part of XLA's runtime that a handler may call: errors, and thread pools that schedule in every way XLA allows.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "xla/ffi/api/c_api.h"

// XLA leaves both types open to whoever implements its interface.
struct XLA_FFI_Error {
  XLA_FFI_Error_Code code;
  std::string message;
};

// Since version 0.4 of the interface (JAX 0.11) some names are others, and an error's code is asked for with its message.
#if XLA_FFI_API_MAJOR == 0 && XLA_FFI_API_MINOR < 4
#define FAKE_XLA_CONTEXT XLA_FFI_ExecutionContext
#define FAKE_XLA_GET_ERROR XLA_FFI_Error_GetMessage
using FakeXlaExtension = XLA_FFI_Extension_Base;
inline void set_code(XLA_FFI_Error_GetMessage_Args*) {}
#else
#define FAKE_XLA_CONTEXT XLA_FFI_InvokeContext
#define FAKE_XLA_GET_ERROR XLA_FFI_Error_GetDetails
using FakeXlaExtension = XLA_FFI_InternalExtension;
inline void set_code(XLA_FFI_Error_GetDetails_Args* args) { args->errc = args->error->code; }
#endif
struct FAKE_XLA_CONTEXT {
  explicit FAKE_XLA_CONTEXT(int64_t threads) : threads(threads) {}
  virtual ~FAKE_XLA_CONTEXT() = default;
  virtual XLA_FFI_Error* schedule(XLA_FFI_Task* task, void* data) = 0;

  const int64_t threads;  // what the pool says of itself, true or not
};

// Runs each task at once on the thread that schedules it.
struct InlinePool : XLA_FFI_ExecutionContext {
  using XLA_FFI_ExecutionContext::XLA_FFI_ExecutionContext;
  XLA_FFI_Error* schedule(XLA_FFI_Task* task, void* data) override {
    task(data);
    return nullptr;
  }
};

// Has no thread to give.
struct RefusingPool : XLA_FFI_ExecutionContext {
  using XLA_FFI_ExecutionContext::XLA_FFI_ExecutionContext;
  XLA_FFI_Error* schedule(XLA_FFI_Task*, void*) override {
    return new XLA_FFI_Error{XLA_FFI_Error_Code_UNAVAILABLE, "no thread pool"};
  }
};

// Starts no task before run() is called, which is after the call has returned and its buffers are gone.
// What the call left on the stack is wiped first: a task that still used it would crash.
struct LatePool : XLA_FFI_ExecutionContext {
  using XLA_FFI_ExecutionContext::XLA_FFI_ExecutionContext;
  XLA_FFI_Error* schedule(XLA_FFI_Task* task, void* data) override {
    tasks_.emplace_back(task, data);
    return nullptr;
  }
  void run() {
    if (!tasks_.empty()) wipe_stack();
    for (auto [task, data] : std::exchange(tasks_, {})) task(data);
  }

 private:
  [[gnu::noinline]] static void wipe_stack() {
    volatile unsigned char below[32768];
    memset(const_cast<unsigned char*>(below), 0xff, sizeof below);
  }

  std::vector<std::pair<XLA_FFI_Task*, void*>> tasks_;
};

// Threads that take tasks in the order of their arrival; their true number may differ from what the pool says.
// schedule() gives them `head_start` to begin the task, without which callers of short calls would meet no helper.
class ThreadedPool : public XLA_FFI_ExecutionContext {
 public:
  ThreadedPool(int64_t says, int workers, std::chrono::microseconds head_start)
      : XLA_FFI_ExecutionContext(says), head_start_(head_start) {
    for (int i = 0; i < workers; ++i) workers_.emplace_back([this] { work(); });
  }
  ~ThreadedPool() override {
    {
      std::lock_guard lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  XLA_FFI_Error* schedule(XLA_FFI_Task* task, void* data) override {
    std::unique_lock lock(mutex_);
    tasks_.emplace_back(task, data);
    changed_.notify_all();
    taken_.wait_for(lock, head_start_, [this] { return tasks_.empty(); });
    return nullptr;
  }

 private:
  void work() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return closed_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const auto [task, data] = tasks_.front();
      tasks_.pop_front();
      if (tasks_.empty()) taken_.notify_all();
      lock.unlock();
      task(data);
    }
  }

  std::mutex mutex_;
  const std::chrono::microseconds head_start_;
  std::condition_variable changed_, taken_;
  std::deque<std::pair<XLA_FFI_Task*, void*>> tasks_;
  bool closed_ = false;
  std::vector<std::thread> workers_;
};

// Entries that a CPU handler has no business with stay null: a call of one is a crash, which the fuzzer reports.
inline const XLA_FFI_Api* fake_api() {
  static const XLA_FFI_Api api = [] {
    XLA_FFI_Api made = {};
    made.struct_size = XLA_FFI_Api_STRUCT_SIZE;
    made.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
    made.XLA_FFI_Error_Create = [](XLA_FFI_Error_Create_Args* args) {
      return new XLA_FFI_Error{args->errc, args->message};
    };
    made.FAKE_XLA_GET_ERROR = [](auto* args) {
      args->message = args->error->message.c_str();
      set_code(args);
    };
    made.XLA_FFI_Error_Destroy = [](XLA_FFI_Error_Destroy_Args* args) { delete args->error; };
    made.XLA_FFI_ThreadPool_Schedule = [](XLA_FFI_ThreadPool_Schedule_Args* args) {
      return args->ctx->schedule(args->task, args->data);
    };
    made.XLA_FFI_ThreadPool_NumThreads = [](XLA_FFI_ThreadPool_NumThreads_Args* args) -> XLA_FFI_Error* {
      if (args->ctx->threads < 0) return new XLA_FFI_Error{XLA_FFI_Error_Code_UNAVAILABLE, "no thread pool"};
      *args->num_threads = args->ctx->threads;
      return nullptr;
    };
    return made;
  }();
  return &api;
}
