// The session: the stand-in's state as its controller sees it.
#include "driver/session.h"

#include <utility>

#include "driver/state.h"

namespace sim::driver {
namespace {

class TheSession final : public Session {
 public:
  void set_device(std::string_view key) override {
    Locked state;
    if (state->retained > 0 || !state->libraries.empty())
      throw Error("the device can be chosen only while no context is retained and no library is loaded");
    for (const Device& device : devices)
      if (device.key == key) {
        state->device = &device;
        state->device_chosen = true;
        return;
      }
    throw Error("no device \"" + std::string(key) + "\"; there are b200, h200");
  }

  std::string device() override { return std::string(Locked()->device->key); }

  void set_options(const Options& options) override { Locked()->options = options; }

  Options options() override { return Locked()->options.value_or(Options()); }

  std::vector<LaunchRecord> take_launches() override { return std::exchange(Locked()->launches, {}); }

  void clear_launches() override { take_launches(); }

  std::string last_error() override { return Locked()->last_error; }

  void reset() override {
    Locked state;
    state->reset_context();
    state->libraries.clear();
    state->kernels.clear();
    state->launches.clear();
    state->last_error.clear();
    state->primary = nullptr;  // contexts that threads still hold current are dead
    state->retained = 0;
    state->initialised = false;
    state->device = &devices[0];
    state->device_chosen = false;
    state->options.reset();
  }
};

}  // namespace
}  // namespace sim::driver

sim::driver::Session* jax_fa4_simulator_session() {
  static sim::driver::TheSession session;
  return &session;
}
