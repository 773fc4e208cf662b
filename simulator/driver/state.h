// What the stand-in remembers between calls: handles, memory, records; one object a process, behind one mutex.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "driver/calls.h"
#include "driver/devices.h"
#include "driver/session.h"

namespace sim::driver {

// Ends a call with its documented CUresult. Never leaves the library: answer() catches it.
struct Refusal {
  CUresult code;
  std::string words;
};

[[noreturn]] inline void refuse(CUresult code, std::string words) { throw Refusal{code, std::move(words)}; }

// Handles are numbers that are never used twice and point nowhere: an unknown one is found out, not dereferenced.
template <class Handle, class Object>
class Handles {
 public:
  Handle add(std::shared_ptr<Object> object, u64& next) {
    const Handle handle = reinterpret_cast<Handle>(next += 16);
    objects_.emplace(handle, std::move(object));
    return handle;
  }
  std::shared_ptr<Object> find(Handle handle) const {
    const auto at = objects_.find(handle);
    return at == objects_.end() ? nullptr : at->second;
  }
  bool erase(Handle handle) { return objects_.erase(handle) != 0; }
  bool empty() const { return objects_.empty(); }
  void clear() { objects_.clear(); }

 private:
  std::map<Handle, std::shared_ptr<Object>> objects_;
};

// A kernel of a library or module. CUkernel and the CUfunction made of it share the attributes: there is one device.
struct Kernel {
  std::shared_ptr<const Program> program;
  CUkernel kernel = nullptr;      // of a library
  CUfunction function = nullptr;  // of a module, or once cuKernelGetFunction was asked
  int max_dynamic_shared = 0;
  int carveout = -1;
  int non_portable_cluster = 0;
  int scheduling_policy = 0;
};

struct Library {
  std::map<std::string, std::shared_ptr<Kernel>, std::less<>> kernels;
};

struct Stream {};  // launches and copies end before their call returns: there is nothing to remember

// Memory that kernels may touch: allocated here, or the caller's and registered.
struct Buffer {
  u64 address = 0, bytes = 0;
  bool writable = true;
  void* owned = nullptr;
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();
};

struct State {
  std::mutex mutex;
  bool initialised = false;
  const Device* device = &devices[0];
  bool device_chosen = false;      // by the session; otherwise cuInit asks the environment
  std::optional<Options> options;  // likewise
  u64 next_handle = 0xFA40'0000'0000'0000;  // no address of a process starts like this

  CUcontext primary = nullptr;  // the device's primary context, the only one there is
  u32 retained = 0;
  Handles<CUstream, Stream> streams;
  Handles<CUlibrary, Library> libraries;
  Handles<CUmodule, Library> modules;
  Handles<CUkernel, Kernel> kernels;
  Handles<CUfunction, Kernel> functions;
  std::map<u64, std::shared_ptr<Buffer>> memory;  // by address
  u64 allocated_bytes = 0;

  std::vector<LaunchRecord> launches;
  std::string last_error;

  bool alive(CUcontext context) const { return context && context == primary && retained > 0; }
  void reset_context();  // what a context owns goes: streams, modules, functions, memory
  void check_device(CUdevice asked) const;
  void check_context() const;              // the calling thread's current one
  void check_stream(CUstream stream) const;  // null and the two documented special ones need a current context
  std::shared_ptr<Kernel> kernel_of(CUfunction function) const;  // a CUfunction, or a CUkernel cast to one
};

State& the_state();

// The contexts that the calling thread has pushed; the last is current.
std::vector<CUcontext>& context_stack();

// The state, locked.
class Locked {
 public:
  Locked() : lock_(the_state().mutex) {}
  State* operator->() const { return &the_state(); }
  State& operator*() const { return the_state(); }

 private:
  std::unique_lock<std::mutex> lock_;
};

// The state, locked, once cuInit has succeeded; else CUDA_ERROR_NOT_INITIALIZED.
Locked initialised();

// A caught exception -> its CUresult; the words are kept for Session::last_error.
CUresult failed(const char* call);

// Runs a call's body and turns what it throws into a CUresult: nothing is thrown across the C boundary.
template <class Body>
CUresult answer(const char* call, Body&& body) {
  try {
    body();
    return CUDA_SUCCESS;
  } catch (...) {
    return failed(call);
  }
}

template <class Pointer>
void check_pointer(const Pointer* pointer, const char* name) {
  if (!pointer) refuse(CUDA_ERROR_INVALID_VALUE, std::string(name) + " is a null pointer");
}

std::string hexadecimal(u64 value);
std::string text(const Dim3& extent);  // "2x1x1"

}  // namespace sim::driver
