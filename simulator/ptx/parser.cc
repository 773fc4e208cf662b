// PTX text -> Module: what stands outside of bodies (PTX ISA, "Directives").
#include "ptx/parser.h"

#include <algorithm>
#include <array>
#include <utility>

namespace sim::ptx {
namespace {

constexpr u32 most_text = 64u << 20;
constexpr u32 most_parameter_bytes = 32764;
constexpr u32 most_shared_bytes = 232448;
constexpr u32 most_alignment = 1024;
constexpr std::string_view no_functions = "functions (.func) are not modelled; inline them into the kernel";

u32 align_up(u32 offset, u32 align) { return (offset + align - 1) / align * align; }

}  // namespace

// module = directive*
void Parser::module() {
  using Rule = void (Parser::*)();
  constexpr std::array<std::pair<std::string_view, Rule>, 6> rules{{
      {".version", &Parser::version},
      {".target", &Parser::target},
      {".address_size", &Parser::address_size},
      {".file", &Parser::file_name},
      {".section", &Parser::section},
      {".entry", &Parser::entry},
  }};
  while (!at_.at_end()) {
    u32 line = at_.line();
    std::string_view allowed =
        ".version, .target, .address_size, .file, .section, .visible, .weak, .extern, .shared, .entry";
    if (at_.next() != '.') at_.fail(allowed);
    std::string_view directive = at_.directive();
    auto named = [&](const auto& row) { return row.first == directive; };
    const auto* rule = std::find_if(rules.begin(), rules.end(), named);
    if (rule != rules.end()) (this->*rule->second)();
    else if (directive == ".visible" || directive == ".weak" || directive == ".extern") linked(directive);
    else if (directive == ".shared") module_.variables.push_back(shared_variable(false));
    else if (directive == ".func") at_.refuse(line, std::string(no_functions));
    else if (directive == ".global" || directive == ".const")
      at_.refuse(line, "variables in " + std::string(directive) + " are not modelled; pass a pointer to the kernel");
    else at_.refuse(line, "found \"" + std::string(directive) + "\"; allowed here: " + std::string(allowed));
  }
  if (module_.version.empty() || module_.target.empty()) at_.refuse("a module needs .version and .target");
}

void Parser::version() {
  module_.version = at_.number();
  if (module_.version.empty()) at_.fail("a version such as 8.8");
}

// .target sm_100a, texmode_independent
void Parser::target() {
  module_.target = expect_name("an architecture such as sm_100a");
  while (at_.take(",")) expect_name("a target's option");
}

void Parser::address_size() {
  if (at_.number() != "64") at_.refuse(".address_size must be 64");
}

// .file 1 "kernel.py", 1700000000, 4096
void Parser::file_name() {
  u32 number = unsigned_integer("a file's number", 65535);
  if (at_.next() != '"') at_.fail("a file's name in quotes");
  if (files_.size() <= number) files_.resize(number + 1);
  files_[number] = at_.string();
  while (at_.take(",")) at_.number();
}

// Debug information; nothing in it is executed.
void Parser::section() {
  if (at_.directive().empty()) at_.fail("a section's name");
  at_.block();
}

// linked = (.visible | .weak | .extern) (.entry ... | .shared ...)
void Parser::linked(std::string_view linking) {
  bool is_extern = linking == ".extern";
  u32 line = at_.line();
  std::string_view directive = at_.directive();
  if (directive == ".shared") module_.variables.push_back(shared_variable(is_extern));
  else if (directive == ".entry" && !is_extern) entry();
  else if (directive == ".func") at_.refuse(line, std::string(no_functions));
  else at_.refuse(line, std::string(linking) + " stands before " + (is_extern ? "" : ".entry or ") + ".shared here");
}

// .shared .align 8 .b8 name[128];   .extern .shared .align 1024 .b8 name[];
Variable Parser::shared_variable(bool is_extern) {
  Variable variable;
  variable.line = at_.line();
  std::string_view directive = at_.directive();
  u32 align = 0;
  if (directive == ".align") {
    align = unsigned_integer("an alignment", most_alignment);
    directive = at_.directive();
  }
  std::optional<u8> bytes = type_bytes(directive.substr(directive.empty() ? 0 : 1));
  if (!bytes || *bytes == 0) at_.refuse(variable.line, "a shared variable needs a type such as .b8");
  variable.align = align ? align : *bytes;
  if ((variable.align & (variable.align - 1)) != 0) at_.refuse(variable.line, "an alignment is a power of two");
  variable.name = expect_name("the variable's name");
  variable.bytes = static_cast<u32>(extents(*bytes, most_shared_bytes, &variable.dynamic));
  if (variable.dynamic != is_extern)
    at_.refuse(variable.line, is_extern ? "an .extern .shared variable is an array without size: name[]"
                                        : "only an .extern .shared variable may leave its size to the launch");
  if (at_.next() == '=') at_.refuse("a shared variable cannot be initialised");
  at_.expect(";", "\";\" after the variable");
  return variable;
}

// entry = .entry name [( parameter, ... )] performance* block
void Parser::entry() {
  module_.kernels.emplace_back();
  kernel_ = &module_.kernels.back();
  kernel_->line = at_.line();
  kernel_->name = expect_name("the kernel's name");
  for (const Kernel& other : std::span(module_.kernels).first(module_.kernels.size() - 1))
    if (other.name == kernel_->name)
      at_.refuse(kernel_->line, "a kernel \"" + std::string(kernel_->name) + "\" stands above");
  source_ = 0;
  if (at_.take("(") && !at_.take(")")) {
    do kernel_->parameters.push_back(parameter());
    while (at_.take(","));
    at_.expect(")", "\",\" or \")\" after a parameter");
  }
  while (at_.next() == '.') performance(at_.directive());
  if (at_.next() != '{') at_.fail("the kernel's body { }");
  block(Scope::none);
}

// parameter = .param [.align n] type [.ptr [space] [.align n]] name [[n]]
Parameter Parser::parameter() {
  Parameter parameter;
  u32 line = at_.line();
  if (at_.directive() != ".param") at_.refuse(line, "a kernel's parameter begins with .param");
  std::string_view directive = at_.directive();
  u32 align = 0;
  if (directive == ".align") {
    align = unsigned_integer("an alignment", most_alignment);
    directive = at_.directive();
  }
  std::optional<u8> bytes = type_bytes(directive.substr(directive.empty() ? 0 : 1));
  if (!bytes || *bytes == 0) at_.refuse(line, "a parameter needs a type such as .u64");
  if (at_.take(".ptr")) {  // what it points to: a hint
    for (std::string_view space : {".global", ".shared", ".const", ".local"})
      if (at_.take(space)) break;
    if (at_.take(".align")) unsigned_integer("an alignment", 1u << 30);
  }
  parameter.align = align ? align : *bytes;
  if ((parameter.align & (parameter.align - 1)) != 0) at_.refuse(line, "an alignment is a power of two");
  parameter.name = expect_name("the parameter's name");
  for (const Parameter& other : kernel_->parameters)
    if (other.name == parameter.name) at_.refuse(line, "a parameter \"" + parameter.name + "\" stands above");
  parameter.bytes = static_cast<u32>(extents(*bytes, most_parameter_bytes, nullptr));
  parameter.offset = align_up(kernel_->parameter_bytes, parameter.align);
  kernel_->parameter_bytes = parameter.offset + parameter.bytes;
  if (kernel_->parameter_bytes > most_parameter_bytes)
    at_.refuse(line, "a kernel takes at most " + std::to_string(most_parameter_bytes) + " bytes of parameters");
  return parameter;
}

void Parser::performance(std::string_view directive) {
  if (directive == ".reqntid") {
    kernel_->required_threads = dimensions();
  } else if (directive == ".maxntid") {
    kernel_->max_threads = static_cast<u32>(dimensions().volume());
  } else if (directive == ".minnctapersm" || directive == ".maxnctapersm" || directive == ".maxnreg") {
    unsigned_integer("a number", 1u << 16);
  } else if (directive == ".pragma") {
    if (at_.next() != '"') at_.fail("a string in quotes");
    at_.string();
    at_.expect(";", "\";\" after .pragma");
  } else {
    at_.refuse("found \"" + std::string(directive) +
               "\"; allowed before a body: .reqntid, .maxntid, .minnctapersm, .maxnctapersm, .maxnreg, .pragma");
  }
}

Dim3 Parser::dimensions() {
  Dim3 size;
  size.x = unsigned_integer("a number of threads", 1024);
  if (at_.take(",")) size.y = unsigned_integer("a number of threads", 1024);
  if (at_.take(",")) size.z = unsigned_integer("a number of threads", 64);
  if (size.volume() == 0 || size.volume() > 1024) at_.refuse("a CTA has 1 to 1024 threads");
  return size;
}

u32 Parser::unsigned_integer(std::string_view what, u32 most) {
  if (!at_.sees_digit()) at_.fail(what);
  u32 line = at_.line();
  Argument value = literal();
  if (value.kind != Argument::integer || value.bits > most)
    at_.refuse(line, std::string(what) + " is at most " + std::to_string(most) + "; got " + std::string(value.text));
  return static_cast<u32>(value.bits);
}

// extents = ([n])*; `open` receives whether it is []. Returns the bytes of it all.
u64 Parser::extents(u32 element_bytes, u64 most, bool* open) {
  u64 bytes = element_bytes;
  while (at_.take("[")) {
    if (open && at_.next() == ']') {
      *open = true;
      bytes = 0;
    } else {
      bytes *= unsigned_integer("an array's extent", 1u << 30);
    }
    if (bytes > most) at_.refuse("an array here has at most " + std::to_string(most) + " bytes");
    at_.expect("]", "\"]\"");
    if (open && *open) break;
  }
  return bytes;
}

std::string_view Parser::expect_name(std::string_view what) {
  if (!at_.sees_name()) at_.fail(what);
  return at_.name();
}

std::shared_ptr<const Module> parse(std::string text, std::string file) {
  if (text.size() > most_text) throw Error(file + ": PTX text of more than 64 MiB is not read");
  auto module = std::make_shared<Module>(std::move(text), std::move(file));
  Parser(*module).module();
  return module;
}

std::vector<std::string> entries(const Module& module) {
  std::vector<std::string> names;
  for (const Kernel& kernel : module.kernels) names.emplace_back(kernel.name);
  return names;
}

}  // namespace sim::ptx
