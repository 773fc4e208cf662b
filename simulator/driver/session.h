// The stand-in's own control surface: which device it is, how it executes, and what it has executed.
//
// The stand-in is a shared object that exports the driver API and one function more, which returns this interface; who
// controls it (the Python module) links the shared object, or loads it and looks that one name up.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../../ffi/cuda/driver_abi.h"
#include "machine/grid.h"

namespace sim::driver {

struct LaunchRecord {
  std::string kernel;
  Dim3 grid, block, cluster;
  u32 dynamic_shared = 0;
  jax_fa4::cuda::CUresult status = jax_fa4::cuda::CUDA_SUCCESS;
  std::string words;                       // why it was refused or failed, or nothing
  Result result;                           // empty if the launch was refused
  std::shared_ptr<const Program> program;  // of the lines that result.executed counts
};

// Every function may be called from any thread; what a user can do wrong is sim::Error.
class Session {
 public:
  // "b200" or "h200"; only while no context is retained and no library is loaded.
  virtual void set_device(std::string_view key) = 0;
  virtual std::string device() = 0;
  virtual void set_options(const Options& options) = 0;  // of launches from now on
  virtual Options options() = 0;
  virtual std::vector<LaunchRecord> take_launches() = 0;  // those that ended since the last call, in that order
  virtual void clear_launches() = 0;
  virtual std::string last_error() = 0;  // words of the last call that failed, whatever thread made it
  virtual void reset() = 0;              // every handle, allocation and record is forgotten; cuInit is needed again

 protected:
  ~Session() = default;
};

}  // namespace sim::driver

extern "C" __attribute__((visibility("default"))) sim::driver::Session* jax_fa4_simulator_session();
