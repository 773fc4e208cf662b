// Kernels, launches and the instruction table for Python.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "driver/devices.h"
#include "driver/options.h"
#include "ptx/ptx.h"
#include "python/bindings.h"

namespace sim::python {
namespace {

using nb::literals::operator""_a;
using Extents = std::tuple<u32, u32, u32>;
using U32Array = nb::ndarray<nb::numpy, u32, nb::ndim<1>>;
using U64Array = nb::ndarray<nb::numpy, u64, nb::ndim<1>>;

template <class Array, class T> Array as_array(std::vector<T> values) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return Array(owned->data(), {owned->size()}, owner);
}

Dim3 dimensions(Extents extents) { return {std::get<0>(extents), std::get<1>(extents), std::get<2>(extents)}; }
nb::tuple as_tuple(Dim3 d) { return nb::make_tuple(d.x, d.y, d.z); }

std::string line_of(const Source& source) {
  return source.line == 0 ? "" : source.file + ":" + std::to_string(source.line);
}

Kernel from_ptx(std::string text, std::string file, const std::string& entry) {
  std::shared_ptr<const ptx::Module> module = ptx::parse(text, std::move(file));
  return {ptx::bind(*module, entry), std::move(text)};
}

template <class F> auto of_each_instruction(F f) {
  return [f](const Kernel& kernel) {
    std::vector<decltype(f(*kernel.program, kernel.program->code[0]))> values;
    for (const Inst& inst : kernel.program->code) values.push_back(f(*kernel.program, inst));
    return values;
  };
}

void bind_kernel(nb::module_& module) {
  nb::class_<Kernel>(module, "Kernel", "A kernel of a PTX text, bound to the instruction table.")
      .def_static("from_ptx", &from_ptx, "text"_a, "file"_a = "kernel.ptx", "entry"_a = "",
                  nb::call_guard<nb::gil_scoped_release>())
      .def_ro("ptx", &Kernel::text)
      .def_prop_ro("name", [](const Kernel& k) { return k.program->name; })
      .def_prop_ro("file", [](const Kernel& k) { return k.program->file; })
      .def_prop_ro("target", [](const Kernel& k) { return k.program->target; })
      .def_prop_ro("parameters", [](const Kernel& k) {
        std::vector<std::tuple<std::string, u32, u32, u32>> all;
        for (const Parameter& p : k.program->parameters) all.emplace_back(p.name, p.offset, p.bytes, p.align);
        return all;
      }, "name, offset, bytes and alignment of each")
      .def_prop_ro("parameter_bytes", [](const Kernel& k) { return k.program->parameter_bytes; })
      .def_prop_ro("static_shared_bytes", [](const Kernel& k) { return k.program->static_shared_bytes; })
      .def_prop_ro("register_bytes", [](const Kernel& k) { return k.program->register_bytes; }, "of a warp")
      .def_prop_ro("required_threads", [](const Kernel& k) { return as_tuple(k.program->required_threads); })
      .def_prop_ro("max_threads", [](const Kernel& k) { return k.program->max_threads; })
      .def_prop_ro("pairs_ctas", [](const Kernel& k) { return k.program->pairs_ctas; })
      .def_prop_ro("text", [](const Kernel& k) { return k.program->text; }, "the statement of each pc")
      .def_prop_ro("lines", [](const Kernel& k) {
        return as_array<U32Array>(of_each_instruction([](const Program&, const Inst& i) { return i.line; })(k));
      }, nb::rv_policy::automatic, "the PTX line of each pc")
      .def_prop_ro("rows", [](const Kernel& k) {
        return as_array<U32Array>(of_each_instruction([](const Program&, const Inst& i) { return u32{i.row}; })(k));
      }, nb::rv_policy::automatic, "the table's row of each pc")
      .def_prop_ro("sources", of_each_instruction([](const Program& p, const Inst& i) {
        return line_of(p.sources[i.source]);
      }), "file:line that each pc comes from, or nothing");
}

// A report's site with what the program says about its pc.
struct SiteView {
  std::string who, role;
  std::optional<u32> pc;
  u32 line = 0;
  std::string text, source;
};

SiteView view(const Program& program, const check::Site& site, const std::string& role) {
  if (site.pc >= program.code.size()) return {site.who, role, std::nullopt, 0, "", ""};
  const Inst& inst = program.code[site.pc];
  return {site.who, role, site.pc, inst.line, program.text[site.pc], line_of(program.sources[inst.source])};
}

struct ReportView {
  check::Report report;
  std::string text;
  SiteView first, second;
};

std::vector<ReportView> reports(const Outcome& outcome) {
  std::vector<ReportView> all;
  const Result& result = outcome.result;
  for (std::size_t i = 0; i < result.reports.size(); ++i) {
    const check::Report& r = result.reports[i];
    std::string text = i < result.rendered.size() ? result.rendered[i] : r.title;
    all.push_back({r, std::move(text), view(*outcome.program, r.first, r.first_role),
                   view(*outcome.program, r.second, r.second_role)});
  }
  return all;
}

void bind_reports(nb::module_& module) {
  nb::class_<SiteView>(module, "Site", "One of the two accesses or events of a report.")
      .def_ro("who", &SiteView::who)
      .def_ro("role", &SiteView::role)
      .def_ro("pc", &SiteView::pc)
      .def_ro("line", &SiteView::line)
      .def_ro("text", &SiteView::text)
      .def_ro("source", &SiteView::source);
  nb::class_<ReportView>(module, "Report", "A finding of a check.")
      .def_prop_ro("kind", [](const ReportView& r) { return std::string(check::name(r.report.kind)); })
      .def_prop_ro("title", [](const ReportView& r) { return r.report.title; })
      .def_prop_ro("cta", [](const ReportView& r) { return as_tuple(r.report.cta); })
      .def_prop_ro("where", [](const ReportView& r) { return r.report.where; })
      .def_prop_ro("why", [](const ReportView& r) { return r.report.why; })
      .def_prop_ro("lines", [](const ReportView& r) { return r.report.lines; })
      .def_prop_ro("count", [](const ReportView& r) { return r.report.count; })
      .def_prop_ro("fatal", [](const ReportView& r) { return r.report.fatal; })
      .def_ro("first", &ReportView::first)
      .def_ro("second", &ReportView::second)
      .def_ro("text", &ReportView::text, "the whole report, rendered")
      .def("__str__", [](const ReportView& r) { return r.text; })
      .def("__repr__", [](const ReportView& r) { return r.text; });
}

nb::dict counters(const Counters& c) {
  nb::dict d;
#define JAX_FA4_COUNTER(name) d[#name] = c.name;
  JAX_FA4_COUNTER(warp_instructions) JAX_FA4_COUNTER(issue_slots)
  JAX_FA4_COUNTER(mufu_operations) JAX_FA4_COUNTER(fma_operations) JAX_FA4_COUNTER(alu_operations)
  JAX_FA4_COUNTER(tensor_macs) JAX_FA4_COUNTER(tensor_instructions) JAX_FA4_COUNTER(tensor_cycles)
  JAX_FA4_COUNTER(shared_read_bytes) JAX_FA4_COUNTER(shared_write_bytes)
  JAX_FA4_COUNTER(shared_wavefronts) JAX_FA4_COUNTER(shared_wavefronts_ideal)
  JAX_FA4_COUNTER(tensor_memory_read_bytes) JAX_FA4_COUNTER(tensor_memory_write_bytes)
  JAX_FA4_COUNTER(global_read_bytes) JAX_FA4_COUNTER(global_write_bytes) JAX_FA4_COUNTER(copy_bytes)
#undef JAX_FA4_COUNTER
  return d;
}

void bind_outcome(nb::module_& module) {
  nb::class_<Outcome>(module, "Outcome", "What a launch came to.")
      .def_prop_ro("kernel", [](const Outcome& o) { return o.program ? Kernel{o.program, ""} : Kernel{}; })
      .def_prop_ro("reports", &reports)
      .def_prop_ro("failed", [](const Outcome& o) { return o.result.failed; })
      .def_prop_ro("executed", [](const Outcome& o) { return as_array<U64Array>(o.result.executed); },
                   nb::rv_policy::automatic, "warp-instructions of each pc")
      .def_prop_ro("counters", [](const Outcome& o) { return counters(o.result.counters); })
      .def_prop_ro("trace", [](const Outcome& o) { return o.result.trace; });
}

DeviceLimits limits(const std::string& key) {
  for (const driver::Device& device : driver::devices) {
    if (device.key != key) continue;
    DeviceLimits limits;
    limits.multiprocessors = device.get(driver::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    limits.shared_bytes = device.get(driver::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    limits.reserved_shared = device.get(driver::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK);
    limits.registers = device.get(driver::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR);
    limits.max_cluster = driver::largest_cluster;
    return limits;
  }
  throw Error("device is \"" + key + "\"; there are \"b200\" and \"h200\"");
}

Outcome launch(const Kernel& kernel, Extents grid, Extents block, Extents cluster, u32 dynamic_shared,
               nb::bytes parameters, const std::vector<std::tuple<u64, u64, bool>>& memory,
               const std::vector<std::pair<std::string, std::string>>& options, const std::string& device,
               bool dependent) {
  Launch launch;
  launch.program = kernel.program;
  launch.grid = dimensions(grid);
  launch.block = dimensions(block);
  launch.cluster = dimensions(cluster);
  launch.dynamic_shared = dynamic_shared;
  launch.parameters.assign(reinterpret_cast<const u8*>(parameters.c_str()),
                           reinterpret_cast<const u8*>(parameters.c_str()) + parameters.size());
  launch.dependent = dependent;
  launch.device = limits(device);
  Options chosen;
  for (const auto& [name, value] : options) driver::set_option(chosen, name, value);
  std::vector<Allocation> allocations;
  for (const auto& [address, bytes, writable] : memory) allocations.push_back({address, bytes, writable});
  nb::gil_scoped_release released;
  return {kernel.program, run(launch, allocations, chosen)};
}

}  // namespace
}  // namespace sim::python

namespace sim {

void bind_run(nb::module_& module) {
  using namespace python;
  bind_kernel(module);
  bind_reports(module);
  bind_outcome(module);
  module.def("launch", &launch, "kernel"_a, "grid"_a, "block"_a, "cluster"_a, "dynamic_shared"_a, "parameters"_a,
             "memory"_a, "options"_a, "device"_a, "dependent"_a);
  module.def(
      "entries",
      [](std::string text, std::string file) { return ptx::entries(*ptx::parse(std::move(text), std::move(file))); },
      "text"_a, "file"_a = "kernel.ptx", "names of the kernels of a text");
  module.def("rows", [] {
    std::vector<std::string> all;
    for (const Row& row : table()) all.emplace_back(row.syntax);
    return all;
  }, "the syntax of every row of the instruction table");
  module.def("spellings", [](std::size_t row) {
    if (row >= table().size()) throw Error("the table has " + std::to_string(table().size()) + " rows");
    return ptx::spellings(table()[row]);
  }, "row"_a, "every opcode that a row matches");
}

}  // namespace sim
