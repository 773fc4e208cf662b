// The Python module jax_fa4_simulator._simulator.
#include "python/bindings.h"

#include "base.h"

NB_MODULE(_simulator, module) {
  nb::exception<sim::Error>(module, "Error", PyExc_ValueError);
  sim::bind_run(module);
  sim::bind_checks(module);
  sim::bind_machine(module);
  sim::bind_driver(module);
}
