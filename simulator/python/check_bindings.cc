// The checks' parts, bound for their own unit tests.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <memory>

#include "check/happens_before.h"
#include "python/bindings.h"

namespace sim {

using namespace nb::literals;

namespace {

using check::Agent;
using check::AgentKind;
using check::Clock;
using check::Knowledge;
using check::Time;
using check::WarpView;

AgentKind agent_kind(const std::string& name) {
  constexpr std::array names{"warp",        "tensor_copy",  "bulk_store", "wgmma",     "tcgen05",
                             "tensor_load", "tensor_store", "cp_async",   "work_steal"};
  for (std::size_t i = 0; i < names.size(); ++i)
    if (name == names[i]) return static_cast<AgentKind>(i);
  throw Error("no kind of agent is called " + name);
}

// What the clusters of one launch share.
struct Sharing {
  explicit Sharing(const std::vector<std::string>& statements, u32 limit)
      : reports(program, "schedule=eager", limit) {
    program.name = "kernel";
    program.file = "kernel.ptx";
    program.text = statements;
    program.sources.push_back({"python/kernel.py", 57});
    for (u32 pc = 0; pc < statements.size(); ++pc) {
      Inst inst;
      inst.line = 100 + pc;
      inst.source = pc % 2;
      program.code.push_back(inst);
    }
  }
  Program program;
  check::Reports reports;
  std::shared_ptr<check::GlobalHistory> global = check::make_global_history();
};

// One cluster's history and the reports of its launch.
struct History {
  History(std::vector<std::string> statements, u32 cluster, u32 ctas, u32 shared_bytes, u32 shared_base, u32 limit,
          const History* launch)
      : sharing(launch ? launch->sharing : std::make_shared<Sharing>(statements, limit)),
        checks(cluster, ctas, shared_bytes, shared_base, sharing->global, sharing->reports, ids(cluster, ctas)) {}
  static std::vector<Dim3> ids(u32 cluster, u32 ctas) {
    std::vector<Dim3> all;
    for (u32 cta = 0; cta < ctas; ++cta) all.push_back({cta, cluster, 0});
    return all;
  }
  std::shared_ptr<Sharing> sharing;
  check::HappensBefore checks;
};

nb::object pc(const check::Site& site) {
  if (site.pc == check::Site::no_pc) return nb::none();
  return nb::int_(site.pc);
}

nb::list reports(History& history) {
  nb::list all;
  for (const check::Report& report : history.sharing->reports.take()) {
    nb::dict entry;
    entry["kind"] = check::name(report.kind);
    entry["title"] = report.title;
    entry["cta"] = nb::make_tuple(report.cta.x, report.cta.y, report.cta.z);
    entry["where"] = report.where;
    entry["first"] = nb::make_tuple(report.first_role, report.first.who, pc(report.first));
    entry["second"] = nb::make_tuple(report.second_role, report.second.who, pc(report.second));
    entry["why"] = report.why;
    entry["count"] = report.count;
    entry["text"] = history.sharing->reports.render(report);
    all.append(entry);
  }
  return all;
}

check::Actor actor(Agent agent, Time time, const Knowledge& known, Mask lanes, bool async_proxy, u32 pc, bool atomic) {
  return {agent, time, lanes, async_proxy, pc, &known, atomic};
}

void bind_clocks(nb::module_& module) {
  nb::class_<Clock>(module, "Clock")
      .def(nb::init<>())
      .def("covers", &Clock::covers, "agent"_a, "lanes"_a, "time"_a)
      .def("includes", &Clock::includes, "other"_a)
      .def("learn", nb::overload_cast<Agent, Mask, Time>(&Clock::learn), "agent"_a, "lanes"_a, "time"_a)
      .def("learn", nb::overload_cast<Agent, Time>(&Clock::learn), "agent"_a, "time"_a)
      .def("join", &Clock::join, "other"_a);
  nb::class_<Knowledge>(module, "Knowledge")
      .def(nb::init<>())
      .def_ro("generic", &Knowledge::generic)
      .def_ro("fenced", &Knowledge::fenced)
      .def("of_cluster", &Knowledge::of_cluster, "cluster"_a, nb::rv_policy::copy)
      .def("learn",
           [](Knowledge& known, Agent agent, Mask lanes, Time time) { known.generic.learn(agent, lanes, time); },
           "agent"_a, "lanes"_a, "time"_a)
      .def("fence", &Knowledge::fence)
      .def("join", &Knowledge::join, "other"_a)
      .def("join_foreign", &Knowledge::join_foreign, "cluster"_a, "other"_a);
  nb::class_<WarpView>(module, "WarpView")
      .def(nb::init<Agent, Mask>(), "agent"_a, "existing_lanes"_a = all_lanes)
      .def_prop_ro("agent", &WarpView::agent)
      .def_prop_ro("now", &WarpView::now)
      .def("acquire", &WarpView::acquire, "lanes"_a, "known"_a)
      .def("release", &WarpView::release, "lanes"_a)
      .def("meet", &WarpView::meet, "lanes"_a)
      .def("fence_async", &WarpView::fence_async, "lanes"_a)
      .def("known_to", &WarpView::known_to, "lanes"_a, nb::rv_policy::copy)
      .def("learn", &WarpView::learn, "agent"_a, "time"_a, "lanes"_a);
}

template <auto access>
auto one_of_shared() {
  return [](History& history, Agent agent, Time time, const Knowledge& known, u32 offset, u32 bytes, u32 cta,
            Mask lanes, bool async_proxy, u32 pc, bool atomic) {
    (history.checks.*access)(actor(agent, time, known, lanes, async_proxy, pc, atomic), cta, offset, bytes);
  };
}

template <auto access>
auto one_of_tensor() {
  return [](History& history, Agent agent, Time time, const Knowledge& known, u32 half, u32 column, u32 columns,
            u32 cta, Mask lanes, u32 pc) {
    (history.checks.*access)(actor(agent, time, known, lanes, false, pc, false), cta, half, column, columns);
  };
}

template <auto access>
auto one_of_global() {
  return [](History& history, Agent agent, Time time, const Knowledge& known, u64 address, u64 bytes, Mask lanes,
            bool async_proxy, u32 pc, bool atomic) {
    (history.checks.*access)(actor(agent, time, known, lanes, async_proxy, pc, atomic), address, bytes);
  };
}

}  // namespace

void bind_checks(nb::module_& module) {
  bind_clocks(module);
  using Piece = void (check::HappensBefore::*)(const check::Actor&, u32, u32, u32);
  using Checks = check::HappensBefore;
  nb::class_<History> history(module, "HappensBefore");
  history
      .def(nb::init<std::vector<std::string>, u32, u32, u32, u32, u32, const History*>(),
           "statements"_a = std::vector<std::string>(), "cluster"_a = 0, "ctas"_a = 1, "shared_bytes"_a = 4096,
           "shared_base"_a = 1024, "limit"_a = 20, "launch"_a = nb::none())
      .def("agent",
           [](History& self, const std::string& kind, u32 cta, u32 index) {
             return self.checks.agent(agent_kind(kind), cta, index);
           },
           "kind"_a, "cta"_a = 0, "index"_a = 0)
      .def("forget_tensor",
           [](History& self, u32 cta, u32 column, u32 columns) { self.checks.forget_tensor(cta, column, columns); },
           "cta"_a, "column"_a, "columns"_a)
      .def("reports", reports);
  const auto shared = [&](const char* name, auto access) {
    history.def(name, access, "agent"_a, "time"_a, "known"_a, "offset"_a, "bytes"_a = 4, "cta"_a = 0,
                "lanes"_a = all_lanes, "async_proxy"_a = false, "pc"_a = 0, "atomic"_a = false);
  };
  shared("read_shared", one_of_shared<static_cast<Piece>(&Checks::read_shared)>());
  shared("write_shared", one_of_shared<static_cast<Piece>(&Checks::write_shared)>());
  const auto tensor = [&](const char* name, auto access) {
    history.def(name, access, "agent"_a, "time"_a, "known"_a, "half"_a, "column"_a, "columns"_a = 1, "cta"_a = 0,
                "lanes"_a = all_lanes, "pc"_a = 0);
  };
  tensor("read_tensor", one_of_tensor<&Checks::read_tensor>());
  tensor("write_tensor", one_of_tensor<&Checks::write_tensor>());
  const auto global = [&](const char* name, auto access) {
    history.def(name, access, "agent"_a, "time"_a, "known"_a, "address"_a, "bytes"_a = 4, "lanes"_a = all_lanes,
                "async_proxy"_a = false, "pc"_a = 0, "atomic"_a = false);
  };
  global("read_global", one_of_global<&Checks::read_global>());
  global("write_global", one_of_global<&Checks::write_global>());
}

}  // namespace sim
