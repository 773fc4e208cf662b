// PTX text as data: what parser.cc reads and bind.cc makes a sim::Program of (PTX ISA, "Syntax", "Directives").
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "isa/row.h"
#include "machine/program.h"

namespace sim::ptx {

// An operand as it stands in the text.
struct Argument {
  enum Kind : u8 {
    name,     // a register, symbol, label or special register; with offset: symbol+4
    integer,  // bits, in two's complement
    real,     // bits, of 4 or 8 bytes (0f..., 0d...)
    sink,     // _
    pair,     // d|p: parts
    vector,   // {a, b}: parts
    address,  // [a+4]: parts is the base, and with coordinates [a, {x, y}] then these
  };
  Kind kind = name;
  bool negated = false;   // !p
  bool negative = false;  // of an integer
  u8 literal_bytes = 0;   // of a real
  u64 bits = 0;
  i64 offset = 0;
  std::string_view word;  // of a name: without "!" and offset
  std::string_view text;  // from its first to its last character
  std::vector<Argument> parts;
};

struct Statement {
  std::string_view guard;  // the predicate's name, or empty
  bool guard_negated = false;
  std::string_view opcode;
  std::vector<Argument> arguments;
  std::string_view text;   // guard to semicolon
  u32 line = 0;
  u32 scope = 0;
  u32 source = 0;          // index in Kernel::sources
};

// .reg .b32 %r<100>: one hundred of them; .reg .b32 x: one, called x.
struct Registers {
  std::string_view name;
  bool numbered = false;
  u32 count = 1;
  u8 bytes = 0;  // 0: predicates
  u32 line = 0;
};

struct Label {
  std::string_view name;
  u32 pc = 0;
  u32 line = 0;
};

// A variable in shared memory.
struct Variable {
  std::string_view name;
  u32 align = 1;
  u32 bytes = 0;
  bool dynamic = false;  // .extern: the launch says how large
  u32 line = 0;
};

// A block { }: names declared in it hide those around it.
struct Scope {
  static constexpr u32 none = 0xFFFFFFFF;
  u32 parent = none;
  std::vector<Registers> registers;
  std::vector<Label> labels;
  std::vector<Variable> variables;
};

struct Kernel {
  std::string_view name;
  std::vector<Parameter> parameters;
  u32 parameter_bytes = 0;
  Dim3 required_threads{0, 0, 0};
  u32 max_threads = 0;
  std::vector<Scope> scopes;
  std::vector<Statement> statements;
  std::vector<Source> sources{{}};
  u32 line = 0;
};

// All names in it are views of its text, so it is neither copied nor moved.
struct Module {
  Module(std::string text_, std::string file_) : text(std::move(text_)), file(std::move(file_)) {}
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  const std::string text;
  const std::string file;
  std::string_view version, target;
  std::vector<Variable> variables;
  std::vector<Kernel> kernels;

  // "forward.ptx:73"
  std::string at(u32 line) const { return file + ":" + std::to_string(line); }
};

// Throws sim::Error: "forward.ptx:73: ..." with what was found and what is allowed.
std::shared_ptr<const Module> parse(std::string text, std::string file);

std::vector<std::string> entries(const Module& module);

// The kernel `entry` (it may be empty when the module has only one), executable by the bodies of `rows`.
std::shared_ptr<const Program> bind(const Module& module, std::string_view entry, std::span<const Row> rows = table());

// No two rows may match one spelling, every row has a body and operands that can be read; else an Error naming them.
void check_table(std::span<const Row> rows);

// Every opcode that a row matches.
std::vector<std::string> spellings(const Row& row);

}  // namespace sim::ptx
