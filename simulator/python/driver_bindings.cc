// The stand-in driver's session for Python. The module links the shared object, so that both see one state.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>

#include "driver/options.h"
#include "driver/session.h"
#include "python/bindings.h"

namespace sim::python {
namespace {

using nb::literals::operator""_a;

driver::Session& session() { return *jax_fa4_simulator_session(); }

nb::tuple as_tuple(const Dim3& extent) { return nb::make_tuple(extent.x, extent.y, extent.z); }

// True, 7, "random", [1, 2] -> "1", "7", "random", "1:2".
std::string as_text(nb::handle value) {
  if (nb::isinstance<nb::str>(value)) return nb::cast<std::string>(value);
  if (nb::isinstance<nb::bool_>(value)) return nb::cast<bool>(value) ? "1" : "0";
  if (!nb::isinstance<nb::sequence>(value)) return nb::cast<std::string>(nb::str(value));
  std::string joined;
  for (nb::handle item : value) joined += (joined.empty() ? "" : ":") + as_text(item);
  return joined;
}

void set_options(const nb::dict& given) {
  Options options;
  for (auto [name, value] : given) driver::set_option(options, nb::cast<std::string>(nb::str(name)), as_text(value));
  session().set_options(options);
}

// What set_options takes: the session's options can be saved and put back.
nb::dict get_options() {
  const Options options = session().options();
  const char* const schedules[] = {"eager", "random", "lazy"};
  nb::dict all;
  all["schedule"] = schedules[static_cast<int>(options.schedule)];
  all["seed"] = options.seed;
  all["threads"] = options.threads;
  all["checks"] = options.checks;
  all["max_instructions"] = options.max_instructions;
  all["max_reports"] = options.max_reports;
  all["resident_clusters"] = options.resident_clusters;
  all["skip"] = options.skip;
  all["trace_cluster"] = options.trace_cluster;
  all["trace_cta"] = options.trace_cta;
  all["trace_warp"] = options.trace_warp;
  all["trace_mbarrier"] = options.trace_mbarrier;
  return all;
}

nb::dict as_dict(driver::LaunchRecord&& record) {
  const bool executed = !record.result.executed.empty();
  nb::dict launch;
  launch["kernel"] = record.kernel;
  launch["grid"] = as_tuple(record.grid);
  launch["block"] = as_tuple(record.block);
  launch["cluster"] = as_tuple(record.cluster);
  launch["dynamic_shared"] = record.dynamic_shared;
  launch["status"] = static_cast<unsigned>(record.status);
  launch["words"] = record.words;
  launch["outcome"] = executed ? nb::cast(Outcome{std::move(record.program), std::move(record.result)}) : nb::none();
  return launch;
}

nb::list take_launches() {
  nb::list launches;
  for (driver::LaunchRecord& record : session().take_launches()) launches.append(as_dict(std::move(record)));
  return launches;
}

}  // namespace
}  // namespace sim::python

namespace sim {

void bind_driver(nb::module_& module) {
  using namespace python;
  nb::module_ driver = module.def_submodule("driver", "The stand-in driver of this process.");
  driver.def("set_device", [](const std::string& key) { session().set_device(key); }, "key"_a,
             "\"b200\" or \"h200\"; while no context is retained and no library is loaded.");
  driver.def("device", [] { return session().device(); });
  driver.def("set_options", &set_options, "options"_a,
             "Options of launches from now on; those not named get their defaults.");
  driver.def("options", &get_options);
  driver.def("take_launches", &take_launches,
             "Launches that ended since the last call: kernel, extents, status (a CUresult), words if it failed, and\n"
             "the Outcome, or None if it was refused.");
  driver.def("clear_launches", [] { session().clear_launches(); });
  driver.def("last_error", [] { return session().last_error(); }, "Words of the last call that failed.");
  driver.def("reset", [] { session().reset(); },
             "Forgets every handle, allocation and record; cuInit is needed again.");
}

}  // namespace sim
