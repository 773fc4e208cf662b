#include "variants.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <mutex>
#include <sstream>
#include <stdexcept>

#include "error.h"
#include "launch.h"

namespace jax_fa4::cuda {
namespace {

// Of a call, and of what a kernel can do. jax_fa4/manifest.py has the same names.
struct Feature {
  const char* name;
  bool (*used)(const Problem&);
};

constexpr Feature features[] = {
    {"causal", [](const Problem& p) { return p.window_left < 0 && p.window_right == 0; }},
    {"window", [](const Problem& p) { return p.window_left >= 0 || p.window_right > 0; }},
    {"query_offset", [](const Problem& p) { return bool(p.query_offset); }},
    {"logits_soft_cap", [](const Problem& p) { return p.soft_cap != 0; }},
    {"bias", [](const Problem& p) { return bool(p.bias); }},
    {"mask", [](const Problem& p) { return bool(p.mask); }},
    {"sinks", [](const Problem& p) { return bool(p.sinks); }},
    {"alibi_slopes", [](const Problem& p) { return bool(p.alibi_slopes); }},
    {"segment_ids", [](const Problem& p) { return bool(p.query_segment_ids); }},
    {"seq_lengths", [](const Problem& p) { return p.query_seq_lengths || p.key_value_seq_lengths; }},
    {"grouped_heads", [](const Problem& p) { return p.group() > 1; }},
};

[[noreturn]] void refuse(const std::string& words) { throw std::invalid_argument("manifest of kernels: " + words); }

template <class Value>
Value find(const std::map<std::string, Value>& names, const std::string& name, const char* what) {
  const auto at = names.find(name);
  if (at != names.end()) return at->second;
  std::string known;
  for (const auto& row : names) known += (known.empty() ? "" : ", ") + row.first;
  refuse(std::string(what) + " \"" + name + "\" is unknown; known are " + known);
}

const std::map<std::string, Element> elements = {
    {"float32", Element::f32}, {"bfloat16", Element::bf16}, {"float16", Element::f16}};

const std::map<std::string, Axis> axes = {{"head_dim", Axis::head_dim}, {"length", Axis::length},
                                          {"heads", Axis::heads},       {"group", Axis::group},
                                          {"batch", Axis::batch},       {"key_value_heads", Axis::key_value_heads}};

const std::map<std::string, CUtensorMapSwizzle> swizzles = {{"none", CU_TENSOR_MAP_SWIZZLE_NONE},
                                                            {"32B", CU_TENSOR_MAP_SWIZZLE_32B},
                                                            {"64B", CU_TENSOR_MAP_SWIZZLE_64B},
                                                            {"128B", CU_TENSOR_MAP_SWIZZLE_128B}};

const std::map<std::string, Kind> kinds = {
    {"tensor_map", Kind::tensor_map}, {"pointer", Kind::pointer}, {"i32", Kind::i32}, {"f32", Kind::f32}};

std::string word(std::istream& line, const char* what) {
  std::string value;
  if (!(line >> value)) refuse(std::string(what) + " is missing");
  return value;
}

template <class Number>
Number number(const std::string& text, const char* what) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) refuse(std::string(what) + " is no number: " + text);
  return value;
}

template <class Number>
void read(std::istream& line, const char* what, Number& value) {
  value = number<Number>(word(line, what), what);
}

// A file's name may hold spaces.
std::string rest(std::istream& line) {
  std::string text;
  std::getline(line >> std::ws, text);
  return text;
}

unsigned read_features(std::istream& line) {
  unsigned bits = 0;
  for (std::string name; line >> name;) {
    const auto at = std::find_if(std::begin(features), std::end(features),
                                 [&](const Feature& feature) { return name == feature.name; });
    if (at == std::end(features)) refuse("feature \"" + name + "\" is unknown");
    bits |= 1u << (at - std::begin(features));
  }
  return bits;
}

// parameter KIND OF [SWIZZLE AXIS BOX AXIS BOX ...]
Parameter read_parameter(std::istream& line) {
  Parameter parameter;
  parameter.kind = find(kinds, word(line, "kind of a parameter"), "kind of parameter");
  parameter.of = word(line, "meaning of a parameter");
  if (parameter.kind == Kind::tensor_map) {
    parameter.swizzle = find(swizzles, word(line, "swizzle"), "swizzle");
    for (std::string axis; line >> axis;) {
      parameter.axes.push_back(find(axes, axis, "axis"));
      read(line, "box", parameter.box.emplace_back());
    }
    if (parameter.axes.empty() || parameter.axes.size() > 5) refuse("a tensor map has 1 to 5 axes");
    for (std::uint32_t extent : parameter.box)
      if (extent < 1 || extent > 256) refuse("a box has extents from 1 to 256, got " + std::to_string(extent));
  }
  if (!known_parameter(parameter)) refuse("no parameter of this kind is called \"" + parameter.of + "\"");
  return parameter;
}

void read_line(const std::string& key, std::istream& line, Variant& variant) {
  const std::map<std::string, std::string Variant::*> texts = {
      {"arch", &Variant::arch}, {"entry", &Variant::entry}, {"cubin", &Variant::cubin}, {"ptx", &Variant::ptx}};
  const std::map<std::string, unsigned Variant::*> counts = {{"threads", &Variant::threads},
                                                             {"shared_bytes", &Variant::shared_bytes}};
  const std::map<std::string, std::int64_t Variant::*> extents = {
      {"head_dim", &Variant::head_dim}, {"value_head_dim", &Variant::value_head_dim}, {"rows", &Variant::rows}};
  const std::map<std::string, bool Variant::*> switches = {
      {"pads", &Variant::pads}, {"dependent", &Variant::dependent}, {"persistent", &Variant::persistent}};
  if (texts.contains(key)) variant.*texts.at(key) = rest(line);
  else if (counts.contains(key)) read(line, key.c_str(), variant.*counts.at(key));
  else if (extents.contains(key)) read(line, key.c_str(), variant.*extents.at(key));
  else if (switches.contains(key)) variant.*switches.at(key) = word(line, key.c_str()) == "1";
  else if (key == "minimum_driver") read(line, key.c_str(), variant.minimum_driver);
  else if (key == "element") variant.element = find(elements, word(line, key.c_str()), "element");
  else if (key == "output") variant.output = find(elements, word(line, key.c_str()), "element");
  else if (key == "features") variant.features = read_features(line);
  else if (key == "cluster") for (unsigned& extent : variant.cluster) read(line, key.c_str(), extent);
  else if (key == "parameter") variant.parameters.push_back(read_parameter(line));
  else refuse("key \"" + key + "\" is unknown");
}

void check_complete(const Variant& variant) {
  if (variant.entry.empty() || variant.arch.empty()) refuse(variant.name + " has no entry or no arch");
  if (variant.cubin.empty() && variant.ptx.empty()) refuse(variant.name + " has neither cubin nor ptx");
  if (variant.threads == 0 || variant.rows <= 0 || variant.head_dim <= 0 || variant.value_head_dim <= 0)
    refuse(variant.name + " has no threads, rows or head dimensions");
  for (unsigned extent : variant.cluster)
    if (extent == 0) refuse(variant.name + " has an empty cluster");
}

std::mutex mutex;
std::shared_ptr<const Table> table = std::make_shared<const Table>();

std::shared_ptr<const Table> the_table() {
  const std::lock_guard lock(mutex);
  return table;
}

// "sm_100a" -> 100 and 'a'.
bool runs_on(const std::string& arch, const Device& device) {
  int number = 0;
  const char* last = arch.data() + arch.size();
  const auto [end, error] = std::from_chars(arch.data() + std::min<size_t>(3, arch.size()), last, number);
  if (error != std::errc()) return false;
  const int own = device.major * 10 + device.minor;
  if (end == last) return number <= own;
  if (*end == 'f') return number <= own && number / 10 == device.major;
  return number == own;
}

unsigned used_features(const Problem& problem) {
  unsigned bits = 0;
  for (const Feature& feature : features)
    if (feature.used(problem)) bits |= 1u << (&feature - features);
  return bits;
}

bool fits(std::int64_t asked, std::int64_t has, bool pads) {
  return asked == has || (pads && asked < has && asked % 8 == 0);  // rows of a tensor map are multiples of 16 bytes
}

bool can_do(const Variant& variant, const Problem& p) {
  return variant.element == p.query.element && variant.output == p.output.element &&
         fits(p.head_dim, variant.head_dim, variant.pads) &&
         fits(p.value_head_dim, variant.value_head_dim, variant.pads) && (used_features(p) & ~variant.features) == 0;
}

std::string name_of(Element element) {
  for (const auto& [name, value] : elements)
    if (value == element) return name;
  return element == Element::f64 ? "float64" : "?";
}

std::string text_of(const Problem& p) {
  std::string text = name_of(p.query.element) + ", head_dim " + std::to_string(p.head_dim);
  if (p.value_head_dim != p.head_dim) text += ", value head_dim " + std::to_string(p.value_head_dim);
  if (p.output.element != p.query.element) text += ", output " + name_of(p.output.element);
  for (const Feature& feature : features)
    if (feature.used(p)) text += std::string(", ") + feature.name;
  return text;
}

// The architectures of the rows, or the names of those that the predicate picks.
template <class Picked>
std::string list(const Table& rows, std::string Variant::*what, const Picked& picked) {
  std::string text;
  for (const auto& row : rows)
    if (const std::string& word = (*row).*what; picked(*row) && text.find(word) == std::string::npos)
      text += (text.empty() ? "" : ", ") + word;
  return text;
}

}  // namespace

void register_variants(const std::string& text) {
  auto read = std::make_shared<Table>();
  std::shared_ptr<Variant> variant;
  std::istringstream lines(text);
  for (std::string whole; std::getline(lines, whole);) {
    std::istringstream line(whole);
    std::string key;
    if (!(line >> key)) continue;
    if (key == "variant") {
      variant = std::make_shared<Variant>();
      variant->name = word(line, "name of a variant");
      read->push_back(variant);
    } else if (variant) {
      read_line(key, line, *variant);
    } else {
      refuse("\"" + key + "\" stands before the first variant");
    }
  }
  for (const auto& row : *read) check_complete(*row);
  const std::lock_guard lock(mutex);
  table = std::move(read);
}

std::shared_ptr<const Variant> select(const Problem& problem, const Device& device) {
  const std::shared_ptr<const Table> rows = the_table();
  if (rows->empty())
    fail(ErrorCode::kUnimplemented, "this build has no CUDA kernels: pass implementation=\"blockwise\"");
  for (const auto& row : *rows)
    if (runs_on(row->arch, device) && can_do(*row, problem)) return row;
  const std::string gpu = device.name + " (sm_" + std::to_string(device.major * 10 + device.minor) + ")";
  const std::string names = list(*rows, &Variant::name, [&](const Variant& row) { return runs_on(row.arch, device); });
  const std::string reason =
      names.empty() ? "no kernel runs on " + gpu + "; this build has kernels for " +
                          list(*rows, &Variant::arch, [](const Variant&) { return true; })
                    : "no kernel for " + text_of(problem) + " on " + gpu + "; this build has " + names;
  fail(ErrorCode::kUnimplemented, reason + ". Pass implementation=\"blockwise\"");
}

}  // namespace jax_fa4::cuda
