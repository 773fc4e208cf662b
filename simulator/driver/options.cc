// Options of a launch as text: one row an option.
#include "driver/options.h"

#include <charconv>
#include <limits>

namespace sim::driver {
namespace {

[[noreturn]] void refuse(std::string_view name, std::string_view value, const std::string& allowed) {
  throw Error("option " + std::string(name) + "=" + std::string(value) + ": " + allowed);
}

template <class Number>
Number number(std::string_view name, std::string_view value, Number least, Number most) {
  Number read{};
  auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), read);
  if (error != std::errc() || end != value.data() + value.size() || read < least || read > most)
    refuse(name, value, "must be a whole number from " + std::to_string(least) + " to " + std::to_string(most));
  return read;
}

using Set = void (*)(Options&, std::string_view name, std::string_view value);

template <auto member, i64 least, i64 most>
void set_number(Options& options, std::string_view name, std::string_view value) {
  auto& place = options.*member;
  using Number = std::remove_reference_t<decltype(place)>;
  place = number<Number>(name, value, static_cast<Number>(least), static_cast<Number>(most));
}

void set_schedule(Options& options, std::string_view name, std::string_view value) {
  if (value == "eager") options.schedule = Schedule::eager;
  else if (value == "random") options.schedule = Schedule::random;
  else if (value == "lazy") options.schedule = Schedule::lazy;
  else refuse(name, value, "must be eager, random or lazy");
}

void set_seed(Options& options, std::string_view name, std::string_view value) {
  options.seed = number<u64>(name, value, 0, std::numeric_limits<u64>::max());
}

void set_checks(Options& options, std::string_view name, std::string_view value) {
  options.checks = number<int>(name, value, 0, 1) == 1;
}

void set_skip(Options& options, std::string_view name, std::string_view value) {
  options.skip.clear();
  while (!value.empty()) {
    const std::size_t end = value.find(':');
    options.skip.push_back(number<u32>(name, value.substr(0, end), 0, std::numeric_limits<u32>::max()));
    value = end == value.npos ? std::string_view() : value.substr(end + 1);
  }
}

constexpr i64 large = std::numeric_limits<i32>::max();
struct {
  std::string_view name;
  Set set;
} constexpr rows[] = {
    {"schedule", set_schedule},
    {"seed", set_seed},
    {"threads", set_number<&Options::threads, 1, 1024>},
    {"checks", set_checks},
    {"max_instructions", set_number<&Options::max_instructions, 1, std::numeric_limits<i64>::max()>},
    {"max_reports", set_number<&Options::max_reports, 1, large>},
    {"resident_clusters", set_number<&Options::resident_clusters, 1, large>},
    {"skip", set_skip},
    {"trace_cluster", set_number<&Options::trace_cluster, -1, large>},
    {"trace_cta", set_number<&Options::trace_cta, 0, large>},
    {"trace_warp", set_number<&Options::trace_warp, -1, large>},
    {"trace_mbarrier", set_number<&Options::trace_mbarrier, -1, large>},
};

}  // namespace

void set_option(Options& options, std::string_view name, std::string_view value) {
  for (const auto& row : rows)
    if (row.name == name) return row.set(options, name, value);
  std::string known;
  for (const auto& row : rows) known += (known.empty() ? "" : ", ") + std::string(row.name);
  throw Error("no option \"" + std::string(name) + "\"; there are " + known);
}

Options parse_options(std::string_view text) {
  Options options;
  while (!text.empty()) {
    const std::size_t end = text.find(',');
    const std::string_view item = text.substr(0, end);
    const std::size_t equals = item.find('=');
    if (equals == item.npos) throw Error("option \"" + std::string(item) + "\" must have the form name=value");
    set_option(options, item.substr(0, equals), item.substr(equals + 1));
    text = end == text.npos ? std::string_view() : text.substr(end + 1);
  }
  return options;
}

}  // namespace sim::driver
