#include "rows.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <sstream>
#include <stdexcept>

#include "features.h"
#include "parameters.h"

namespace jax_fa4::cuda {
namespace {

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

const std::map<std::string, Axis> axes = {{"head_dim", Axis::head_dim}, {"pack", Axis::pack},
                                          {"length", Axis::length},     {"heads", Axis::heads},
                                          {"batch", Axis::batch}};

const std::map<std::string, CUtensorMapSwizzle> swizzles = {{"none", CU_TENSOR_MAP_SWIZZLE_NONE},
                                                            {"32B", CU_TENSOR_MAP_SWIZZLE_32B},
                                                            {"64B", CU_TENSOR_MAP_SWIZZLE_64B},
                                                            {"128B", CU_TENSOR_MAP_SWIZZLE_128B}};

const std::map<std::string, Kind> kinds = {
    {"tensor_map", Kind::tensor_map}, {"pointer", Kind::pointer}, {"i32", Kind::i32}, {"f32", Kind::f32}};

std::string word(std::istream& line, const std::string& what) {
  std::string value;
  if (!(line >> value)) refuse(what + " is missing");
  return value;
}

template <class Number>
void read(std::istream& line, const std::string& what, Number& value) {
  const std::string text = word(line, what);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) refuse(what + " is no number: " + text);
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
    const std::optional<unsigned> bit = feature_bit(name);
    if (!bit) refuse("feature \"" + name + "\" is unknown");
    bits |= *bit;
  }
  return bits;
}

void read_box(std::istream& line, Parameter& parameter) {
  parameter.swizzle = find(swizzles, word(line, "swizzle"), "swizzle");
  for (std::string axis; line >> axis;) {
    parameter.axes.push_back(find(axes, axis, "axis"));
    read(line, "box", parameter.box.emplace_back());
  }
  if (parameter.axes.empty() || parameter.axes.size() > max_rank) refuse("a tensor map has 1 to 5 axes");
  for (std::uint32_t extent : parameter.box)
    if (extent < 1 || extent > 256) refuse("a box has extents from 1 to 256, got " + std::to_string(extent));
}

// parameter KIND OF [SWIZZLE AXIS BOX ...]
Parameter read_parameter(std::istream& line) {
  Parameter parameter;
  parameter.kind = find(kinds, word(line, "kind of a parameter"), "kind of parameter");
  parameter.of = word(line, "meaning of a parameter");
  switch (parameter.kind) {
    case Kind::tensor_map: read_box(line, parameter); [[fallthrough]];
    case Kind::pointer: parameter.array = find_array(parameter.of); break;
    case Kind::i32: parameter.integer = find_integer(parameter.of); break;
    case Kind::f32: parameter.number = find_float(parameter.of); break;
  }
  if (!parameter.array && !parameter.integer && !parameter.number)
    refuse("no parameter of this kind is called \"" + parameter.of + "\"");
  return parameter;
}

void read_line(const std::string& key, std::istream& line, Variant& variant) {
  const std::map<std::string, std::string Variant::*> texts = {
      {"arch", &Variant::arch}, {"entry", &Variant::entry}, {"cubin", &Variant::cubin}, {"ptx", &Variant::ptx}};
  const std::map<std::string, unsigned Variant::*> counts = {{"threads", &Variant::threads},
                                                             {"shared_bytes", &Variant::shared_bytes}};
  const std::map<std::string, std::int64_t Variant::*> extents = {{"head_dim", &Variant::head_dim},
                                                                  {"value_head_dim", &Variant::value_head_dim},
                                                                  {"rows", &Variant::rows},
                                                                  {"minimum_rows", &Variant::minimum_rows}};
  const std::map<std::string, bool Variant::*> switches = {{"dependent", &Variant::dependent},
                                                           {"persistent", &Variant::persistent}};
  if (texts.contains(key)) variant.*texts.at(key) = rest(line);
  else if (counts.contains(key)) read(line, key, variant.*counts.at(key));
  else if (extents.contains(key)) read(line, key, variant.*extents.at(key));
  else if (switches.contains(key)) variant.*switches.at(key) = word(line, key) == "1";
  else if (key == "minimum_driver") read(line, key, variant.minimum_driver);
  else if (key == "element") variant.element = find(elements, word(line, key), "element");
  else if (key == "output") variant.output = find(elements, word(line, key), "element");
  else if (key == "features") variant.features = read_features(line);
  else if (key == "cluster") for (unsigned& extent : variant.cluster) read(line, key, extent);
  else if (key == "parameter") variant.parameters.push_back(read_parameter(line));
  else refuse("key \"" + key + "\" is unknown");
}

void check_complete(const Variant& variant) {
  if (variant.entry.empty() || variant.arch.empty()) refuse(variant.name + " has no entry or no arch");
  if (variant.cubin.empty() && variant.ptx.empty()) refuse(variant.name + " has neither cubin nor ptx");
  if (variant.threads == 0 || variant.rows <= 0 || variant.head_dim <= 0 || variant.value_head_dim <= 0)
    refuse(variant.name + " has no threads, rows or head dimensions");
  if (variant.parameters.size() > max_parameters)
    refuse(variant.name + " has more than " + std::to_string(max_parameters) + " parameters");
  if (variant.cluster[0] == 0 || variant.cluster[1] != 1 || variant.cluster[2] != 1)
    refuse(variant.name + " has a cluster that does not lie along x");
}

// The box of a packed map covers `pack` heads of box[length] / pack positions, so that it must be a multiple of pack.
void set_largest_pack(Variant& variant) {
  std::uint32_t divisible = 0;
  for (const Parameter& parameter : variant.parameters) {
    const auto& its = parameter.axes;
    const auto pack = std::find(its.begin(), its.end(), Axis::pack);
    if (pack == its.end()) continue;
    const auto length = std::find(its.begin(), its.end(), Axis::length);
    if (length == its.end() || parameter.box[size_t(pack - its.begin())] != 1)
      refuse(variant.name + ": the tensor map of " + parameter.of +
             " has an axis pack, of which its box has 1, and an axis length");
    divisible |= parameter.box[size_t(length - its.begin())];
  }
  variant.largest_pack = divisible == 0 ? 1 : divisible & -divisible;
}

void set_strided(Variant& variant) {
  for (Parameter& parameter : variant.parameters)
    if (parameter.kind == Kind::pointer)
      parameter.strided = std::any_of(variant.parameters.begin(), variant.parameters.end(), [&](const auto& other) {
        return other.kind == Kind::i32 && other.of == parameter.of + "_stride";
      });
}

}  // namespace

Table read_rows(const std::string& text) {
  std::vector<std::shared_ptr<Variant>> variants;
  std::istringstream lines(text);
  for (std::string whole; std::getline(lines, whole);) {
    std::istringstream line(whole);
    std::string key;
    if (!(line >> key)) continue;
    if (key == "variant") variants.emplace_back(std::make_shared<Variant>())->name = word(line, "name of a variant");
    else if (variants.empty()) refuse("\"" + key + "\" stands before the first variant");
    else read_line(key, line, *variants.back());
  }
  for (const auto& variant : variants) {
    check_complete(*variant);
    set_largest_pack(*variant);
    set_strided(*variant);
  }
  return {variants.begin(), variants.end()};
}

std::string name_of(Element element) {
  for (const auto& [name, value] : elements)
    if (value == element) return name;
  return element == Element::f64 ? "float64" : "?";
}

}  // namespace jax_fa4::cuda
