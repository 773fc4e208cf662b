// What the Python module is made of: one function a file, and the two values that more than one of them hands to
// Python.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <string>

#include "machine/grid.h"

namespace nb = nanobind;

namespace sim::python {

// A bound kernel and the text it came from.
struct Kernel {
  std::shared_ptr<const Program> program;
  std::string text;
};

// What a launch came to. Programs are shared: coverage needs one for its lines.
struct Outcome {
  std::shared_ptr<const Program> program;
  Result result;
};

}  // namespace sim::python

namespace sim {

void bind_run(nb::module_& module);  // Kernel, Outcome, launch, rows, encode_tensor_map
void bind_checks(nb::module_& module);
void bind_machine(nb::module_& module);
void bind_driver(nb::module_& module);

}  // namespace sim
