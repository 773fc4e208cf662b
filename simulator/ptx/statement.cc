// PTX text -> Module: bodies, statements, operands (PTX ISA, "Statements", "Constants", "Instruction Operands").
#include <charconv>
#include <cstring>
#include <utility>

#include "ptx/parser.h"

namespace sim::ptx {
namespace {

constexpr u32 most_depth = 64;             // of nested blocks
constexpr std::size_t most_elements = 256;  // of a vector
constexpr std::size_t most_operands = 32;

}  // namespace

// block = { (block | directive | label: | statement)* }
void Parser::block(u32 parent) {
  u32 begin = at_.line();
  if (++depth_ > most_depth) at_.refuse("blocks are nested at most " + std::to_string(most_depth) + " deep");
  at_.expect("{", "\"{\"");
  auto scope = static_cast<u32>(kernel_->scopes.size());
  kernel_->scopes.emplace_back().parent = parent;
  while (!at_.take("}")) {
    if (at_.at_end()) at_.refuse(begin, "this \"{\" is never closed");
    if (at_.next() == '{') block(scope);
    else if (at_.next() == '.') body_directive(at_.directive(), scope);
    else labelled_or_statement(scope);
  }
  --depth_;
}

void Parser::body_directive(std::string_view directive, u32 scope) {
  if (directive == ".reg") registers(scope);
  else if (directive == ".loc") location();
  else if (directive == ".pragma") performance(directive);
  else if (directive == ".shared") kernel_->scopes[scope].variables.push_back(shared_variable(false));
  else if (directive == ".local" || directive == ".param" || directive == ".global" || directive == ".const")
    at_.refuse("variables in " + std::string(directive) + " are not modelled");
  else
    at_.refuse("found \"" + std::string(directive) +
               "\"; allowed in a body: .reg, .shared, .loc, .pragma, an instruction, a label");
}

// .reg .b32 %r<100>, x;
void Parser::registers(u32 scope) {
  u32 line = at_.line();
  std::string_view type = at_.directive();
  std::optional<u8> bytes = type_bytes(type.substr(type.empty() ? 0 : 1));
  if (!bytes) at_.refuse(line, "found \"" + std::string(type) + "\" after .reg; allowed: a type such as .b32 or .pred");
  if (*bytes == 1)
    at_.refuse(line, "there are no registers of 8 bits; ld, st and cvt of " + std::string(type) + " use .b16 or wider");
  do {
    Registers group;
    group.line = at_.line();
    group.bytes = *bytes;
    group.name = expect_name("a register's name");
    if (at_.take("<")) {
      group.numbered = true;
      group.count = unsigned_integer("a number of registers", 1u << 24);
      at_.expect(">", "\">\"");
    }
    kernel_->scopes[scope].registers.push_back(group);
  } while (at_.take(","));
  at_.expect(";", "\",\" or \";\" after a register");
}

// .loc file line column [, function_name label [+ n] [, inlined_at file line column]]
void Parser::location() {
  u32 file = unsigned_integer("a file's number", 65535);
  Source source;
  source.line = unsigned_integer("a line's number", 1u << 30);
  unsigned_integer("a column's number", 1u << 30);
  if (file < files_.size()) source.file = files_[file];
  while (at_.take(",")) {
    std::string_view attribute = expect_name("function_name or inlined_at");
    if (attribute == "function_name") {
      expect_name("a label");
      if (at_.take("+")) unsigned_integer("an offset", 1u << 30);
    } else if (attribute == "inlined_at") {
      for (const char* what : {"a file's number", "a line's number", "a column's number"})
        unsigned_integer(what, 1u << 30);
    } else {
      at_.refuse("found \"" + std::string(attribute) + "\" in .loc; allowed: function_name, inlined_at");
    }
  }
  const Source& last = kernel_->sources.back();
  if (last.file != source.file || last.line != source.line) kernel_->sources.push_back(source);
  source_ = static_cast<u32>(kernel_->sources.size() - 1);
}

void Parser::labelled_or_statement(u32 scope) {
  Statement statement;
  statement.line = at_.line();
  statement.scope = scope;
  statement.source = source_;
  std::size_t begin = at_.position();
  if (at_.take("@")) {
    statement.guard_negated = at_.take("!");
    statement.guard = expect_name("a predicate after \"@\"");
  }
  statement.opcode = at_.dotted();
  if (statement.opcode.empty()) at_.fail("an instruction, a label, a directive or \"}\"");
  auto pc = static_cast<u32>(kernel_->statements.size());
  if (statement.guard.empty() && at_.take(":"))
    kernel_->scopes[scope].labels.push_back({statement.opcode, pc, statement.line});
  else
    this->statement(std::move(statement), begin);
}

// statement = [@[!]p] opcode [argument, ...] ;
void Parser::statement(Statement statement, std::size_t begin) {
  if (statement.opcode == "call" || statement.opcode.starts_with("call."))
    at_.refuse(statement.line, "functions (call) are not modelled; inline them into the kernel");
  if (at_.next() != ';') {
    do {
      if (statement.arguments.size() == most_operands)
        at_.refuse("an instruction has at most " + std::to_string(most_operands) + " operands");
      statement.arguments.push_back(argument());
    } while (at_.take(","));
  }
  if (at_.next() != ';') at_.fail("\",\" or \";\" after an operand");
  statement.text = at_.since(begin);
  at_.take(";");
  kernel_->statements.push_back(std::move(statement));
}

// argument = vector | address | scalar [| scalar]
Argument Parser::argument() {
  if (at_.next() == '{') return vector();
  if (at_.next() == '[') return address();
  std::size_t begin = at_.position();
  Argument first = scalar(true);
  if (!at_.take("|")) return first;
  Argument pair;
  pair.kind = Argument::pair;
  pair.parts.push_back(std::move(first));
  pair.parts.push_back(scalar(false));
  pair.text = at_.since(begin);
  return pair;
}

// scalar = _ | [!]name | name[+-integer] | literal
Argument Parser::scalar(bool offset_allowed) {
  std::size_t begin = at_.position();
  if (at_.sees_digit() || at_.next() == '-') return literal();
  Argument argument;
  argument.negated = at_.take("!");
  if (!at_.sees_name()) at_.fail("a register, a number, a symbol, a label, {...}, [...] or _");
  argument.word = at_.dotted();
  if (argument.word == "_" && !argument.negated) argument.kind = Argument::sink;
  if (offset_allowed && (at_.next() == '+' || at_.next() == '-')) {
    at_.take("+");  // the DSL writes [a+-16]
    bool minus = at_.take("-");
    auto offset = static_cast<i64>(unsigned_integer("an offset", 0x7FFFFFFF));
    argument.offset = minus ? -offset : offset;
  }
  argument.text = at_.since(begin);
  return argument;
}

// vector = { scalar, ... }
Argument Parser::vector() {
  Argument vector;
  vector.kind = Argument::vector;
  std::size_t begin = at_.position();
  at_.expect("{", "\"{\"");
  do {
    if (vector.parts.size() == most_elements)
      at_.refuse("a vector has at most " + std::to_string(most_elements) + " elements");
    vector.parts.push_back(scalar(false));
  } while (at_.take(","));
  at_.expect("}", "\",\" or \"}\" after a vector's element");
  vector.text = at_.since(begin);
  return vector;
}

// address = [ base [+-integer] [, vector] ]
Argument Parser::address() {
  Argument address;
  address.kind = Argument::address;
  std::size_t begin = at_.position();
  at_.expect("[", "\"[\"");
  Argument base = scalar(true);
  address.offset = std::exchange(base.offset, 0);
  address.parts.push_back(std::move(base));
  if (at_.take(",")) {
    if (at_.next() != '{') at_.fail("a vector of coordinates {...}");
    Argument coordinates = vector();
    for (Argument& coordinate : coordinates.parts) address.parts.push_back(std::move(coordinate));
  }
  at_.expect("]", "\"+\", \",\" or \"]\" after an address");
  address.text = at_.since(begin);
  return address;
}

// literal = [-] (decimal | 0x hex | 0b binary | 0 octal) [U]  |  0f bits  |  0d bits  |  decimal fraction
Argument Parser::literal() {
  Argument argument;
  argument.kind = Argument::integer;
  std::size_t begin = at_.position();
  u32 line = at_.line();
  argument.negative = at_.take("-");
  std::string_view digits = at_.number();
  argument.text = at_.since(begin);
  auto bad = [&] { at_.refuse(line, "\"" + std::string(argument.text) + "\" is not a number of PTX"); };
  auto read = [&](std::string_view text, int base) {
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), argument.bits, base);
    if (text.empty() || error != std::errc() || end != text.data() + text.size()) bad();
  };
  char letter = digits.size() > 1 && digits[0] == '0' ? static_cast<char>(digits[1] | 0x20) : '\0';
  if (digits.find('.') != std::string_view::npos) {
    double value = 0;
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size()) bad();
    if (argument.negative) value = -value;
    std::memcpy(&argument.bits, &value, 8);
    argument.literal_bytes = 8;
    argument.kind = Argument::real;
    return argument;
  }
  if (letter == 'f' || letter == 'd') {
    argument.kind = Argument::real;
    argument.literal_bytes = letter == 'f' ? 4 : 8;
    if (digits.size() != 2u + 2u * argument.literal_bytes) bad();
    read(digits.substr(2), 16);
    if (argument.negative) argument.bits ^= u64{1} << (8 * argument.literal_bytes - 1);
    return argument;
  }
  if (digits.ends_with('U')) digits.remove_suffix(1);
  if (letter == 'x') read(digits.substr(2), 16);
  else if (letter == 'b') read(digits.substr(2), 2);
  else if (letter >= '0' && letter <= '9') read(digits.substr(1), 8);
  else read(digits, 10);
  if (argument.negative && argument.bits > u64{1} << 63) bad();
  if (argument.negative) argument.bits = ~argument.bits + 1;
  return argument;
}

}  // namespace sim::ptx
