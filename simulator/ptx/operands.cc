// Module's kernel -> sim::Program: the operands of a statement, checked against its row's pattern.
#include <bit>

#include "ptx/bind.h"

namespace sim::ptx {
namespace {

bool fits(const Form& form, const Argument& argument) {
  switch (form.shape) {
    case Form::value:
      return argument.kind == Argument::name || argument.kind == Argument::integer || argument.kind == Argument::real ||
             argument.kind == Argument::sink;
    case Form::vector: return argument.kind == Argument::vector;
    case Form::address: return argument.kind == Argument::address && form.coordinates == (argument.parts.size() > 1);
    case Form::label: return argument.kind == Argument::name;
    case Form::constant: return argument.kind == Argument::integer;
  }
  return false;
}

const Form* fitting(const Place& place, const Argument& argument) {
  for (const Form& form : place.forms)
    if (fits(form, argument)) return &form;
  return nullptr;
}

bool fits(const Place& place, const Argument& argument) {
  if (argument.kind == Argument::pair)
    return place.second && fits(place.forms[0], argument.parts[0]) && fits(*place.second, argument.parts[1]);
  return (!place.second || place.second_optional) && fitting(place, argument);
}

bool is_float(std::string_view type) {
  return type.starts_with('f') || type.starts_with("bf") || type.starts_with("tf");
}

std::string bits_taken(u8 bytes) { return bytes == 0 ? "a predicate" : std::to_string(8 * bytes); }

std::string bits_wide(u8 bytes) { return bits_taken(bytes) + (bytes == 0 ? "" : " bits wide"); }

}  // namespace

void Binder::operands(const Pattern& pattern, std::vector<u32>& group) {
  Chosen chosen(pattern.places.size());
  if (!assign(pattern, 0, 0, chosen)) {
    std::string got;
    for (const Argument& one : statement_->arguments) got += (got.empty() ? "" : ", ") + std::string(one.text);
    if (got.size() > 120) got = got.substr(0, 117) + "...";
    refuse(spelled() + " takes " + (pattern.text.empty() ? "no operands" : std::string(pattern.text)) + "; got " +
           (got.empty() ? "none" : got));
  }
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    std::size_t before = program_.operands.size();
    if (chosen[i]) operand(pattern.places[i], *chosen[i]);
    group.push_back(static_cast<u32>(program_.operands.size() - before));
  }
}

// Which argument stands for which place, by shape. A place that may be missing takes an argument if the rest can do
// without.
bool Binder::assign(const Pattern& pattern, std::size_t place, std::size_t argument, Chosen& chosen) const {
  const std::vector<Argument>& arguments = statement_->arguments;
  if (place == pattern.places.size()) return argument == arguments.size();
  const Place& here = pattern.places[place];
  bool may_stand = here.modifier.empty() || opcode_->spelling.has(here.modifier);
  bool may_miss = here.optional || !may_stand;
  if (may_stand && argument < arguments.size() && fits(here, arguments[argument])) {
    chosen[place] = &arguments[argument];
    if (assign(pattern, place + 1, argument + 1, chosen)) return true;
  }
  chosen[place] = nullptr;
  return may_miss && assign(pattern, place + 1, argument, chosen);
}

void Binder::operand(const Place& place, const Argument& argument) {
  if (!place.second) return form(*fitting(place, argument), argument);
  bool both = argument.kind == Argument::pair;
  form(place.forms[0], both ? argument.parts[0] : argument);
  if (both) form(*place.second, argument.parts[1]);
  else append(registers_.sink(type_bytes(type_of(*place.second, opcode_->spelling)).value_or(8)), Touch::nothing);
}

void Binder::form(const Form& form, const Argument& argument) {
  switch (form.shape) {
    case Form::value:
    case Form::constant: return value(form, argument, 1);
    case Form::vector:
      for (const Argument& element : argument.parts) value(form, element, argument.parts.size());
      return;
    case Form::address: return address(form, argument);
    case Form::label: return label(argument);
  }
}

// A register, symbol, literal or _ of the form's width; of as many `elements` as share it.
void Binder::value(const Form& form, const Argument& argument, std::size_t elements) {
  std::optional<u8> bytes = type_bytes(type_of(form, opcode_->spelling));
  if (form.width == Form::part) {
    if (*bytes % elements != 0 || *bytes < 2 * elements)
      refuse(spelled() + " cannot be made of " + std::to_string(elements) + " parts");
    bytes = static_cast<u8>(*bytes / elements);
  }
  if (argument.negated && argument.kind != Argument::name) refuse("\"!\" stands before predicates only");
  if (argument.kind == Argument::name) return name(form, argument, bytes);
  std::string text(argument.text);
  if (argument.kind == Argument::sink) {
    if (!form.written) refuse("_ can only be written; " + spelled() + " reads it here");
    return append(registers_.sink(bytes.value_or(8)), Touch::nothing);
  }
  if (form.written) refuse(spelled() + " writes here, so " + text + " must be a register");
  literal(form, argument, bytes);
}

void Binder::name(const Form& form, const Argument& argument, std::optional<u8> bytes) {
  std::string word(argument.word), text(argument.text);
  Named named = registers_.find(argument.word, statement_->scope);
  if (named.kind == Named::nothing) refuse("\"" + word + "\" is not declared here or in a scope around it");
  if (named.kind == Named::variable_register) return in_register(form, argument, named.place, bytes);
  if (form.written) refuse(spelled() + " writes here, so " + text + " must be a register");
  if (argument.negated) refuse("\"!\" stands before predicates only; got " + text);
  if (named.kind == Named::special) {
    if (argument.offset != 0) refuse("an offset stands in brackets or after a symbol; got " + text);
    if (bytes.value_or(4) != 4) refuse(word + " is 32 bits wide, " + spelled() + " takes " + bits_taken(*bytes));
    return append(registers_.filled(named.what, 0, 4), Touch::reads);
  }
  u8 width = bytes.value_or(8);
  if (width != 4 && width != 8)
    refuse("the address of " + word + " is 32 or 64 bits wide, " + spelled() + " takes " + bits_taken(width));
  i64 address = i64{named.offset} + argument.offset;
  if (address < 0) refuse(text + " lies before its state space begins");
  if (named.kind == Named::parameter) append(registers_.constant(static_cast<u64>(address), width), Touch::reads);
  else append(registers_.filled(named.what, static_cast<u32>(address), width), Touch::reads);
}

void Binder::in_register(const Form& form, const Argument& argument, const Operand& place, std::optional<u8> bytes) {
  std::string text(argument.text);
  if (argument.offset != 0) refuse("an offset stands in brackets or after a symbol; got " + text);
  bool right = !bytes || place.bytes == *bytes || (form.wider && *bytes != 0 && place.bytes > *bytes);
  if (!right)
    refuse(std::string(argument.word) + " is " + bits_wide(place.bytes) + ", " + spelled() + " takes " +
           bits_taken(*bytes) + (form.wider ? " or more" : ""));
  Operand operand = place;
  if (argument.negated && place.bytes != 0) refuse("\"!\" stands before predicates only; got " + text);
  if (argument.negated && !form.negatable) refuse(spelled() + " takes no negated predicate; got " + text);
  operand.negate = argument.negated;
  append(operand, form.written ? Touch::writes : Touch::reads);
}

void Binder::literal(const Form& form, const Argument& argument, std::optional<u8> bytes) {
  u8 width = bytes.value_or(8);
  u64 bits = literal_bits(argument, type_of(form, opcode_->spelling), width);
  // There are no registers of 8 bits, so an 8-bit literal stands in one of 16.
  Operand operand = registers_.constant(bits, width == 1 ? u8{2} : width);
  if (form.shape == Form::constant) operand.offset = static_cast<i64>(argument.bits);
  append(operand, Touch::nothing);
}

u64 Binder::literal_bits(const Argument& argument, std::string_view type, u8 bytes) const {
  std::string text(argument.text);
  if (argument.kind == Argument::real) {
    if (type == "f32" || type == "f64") {
      double number = argument.literal_bytes == 4 ? double{std::bit_cast<float>(static_cast<u32>(argument.bits))}
                                                  : std::bit_cast<double>(argument.bits);
      if (type == "f64") return std::bit_cast<u64>(number);
      return argument.literal_bytes == 4 ? argument.bits : std::bit_cast<u32>(static_cast<float>(number));
    }
    if ((type == "b32" || type == "b64") && bytes == argument.literal_bytes) return argument.bits;
    refuse("the floating-point literal " + text + " does not fit " + spelled() + " here");
  }
  if (is_float(type)) refuse(spelled() + " takes a floating-point literal such as 0f3F800000 here; got " + text);
  if (bytes == 16) refuse("a literal has 64 bits at most; " + spelled() + " takes 128");
  if (bytes == 0 || bytes == 8) return argument.bits;
  u32 width = 8u * bytes;
  bool fit = argument.bits >> width == 0;
  if (argument.negative) fit = static_cast<i64>(argument.bits) >= -(i64{1} << (width - 1));
  if (!fit) refuse(text + " does not fit in " + std::to_string(width) + " bits");
  return argument.bits & ((u64{1} << width) - 1);
}

void Binder::address(const Form& form, const Argument& argument) {
  Operand operand = base(form, argument);
  operand.offset = argument.offset;
  append(operand, operand.slot & Operand::in_constants ? Touch::nothing : Touch::reads);
  Form coordinate;
  coordinate.width = Form::typed;
  coordinate.type = "s32";
  for (const Argument& one : std::span(argument.parts).subspan(1)) value(coordinate, one, 1);
}

// The register that holds what stands before the offset in [a+4].
Operand Binder::base(const Form& form, const Argument& argument) {
  const Argument& base = argument.parts[0];
  std::string text(base.text);
  std::optional<u8> bytes = type_bytes(type_of(form, opcode_->spelling));
  if (base.negated || base.kind == Argument::sink || base.kind == Argument::real) refuse(text + " is no address");
  if (base.kind == Argument::integer)
    return registers_.constant(literal_bits(base, "u64", bytes.value_or(8)), bytes.value_or(8));
  Named named = registers_.find(base.word, statement_->scope);
  switch (named.kind) {
    case Named::variable_register:
      if (bytes ? named.place.bytes != *bytes : named.place.bytes != 4 && named.place.bytes != 8)
        refuse(text + " is " + bits_wide(named.place.bytes) + ", an address of " + spelled() + " has " +
               (bytes ? std::to_string(8 * *bytes) : "32 or 64") + " bits");
      return named.place;
    case Named::parameter:
      if (!opcode_->spelling.has("param")) refuse(text + " is a parameter; only ld.param reads it by name");
      if (named.offset + argument.offset < 0) refuse(std::string(argument.text) + " lies before the parameters");
      return registers_.constant(named.offset, 8);
    case Named::shared:
      if (opcode_->spelling.has("param") || opcode_->spelling.has("global")) {
        bool has_shared = !opcode_->spelling.starting("shared").empty();
        if (!has_shared) refuse(text + " is in shared memory, " + spelled() + " is not of that space");
      }
      return registers_.filled(named.what, named.offset, bytes.value_or(4));
    case Named::special: refuse(text + " is no address; move it to a register first");
    case Named::nothing: break;
  }
  refuse("\"" + text + "\" is not declared here or in a scope around it");
}

void Binder::label(const Argument& argument) {
  std::optional<u32> pc = registers_.label(argument.word, statement_->scope);
  if (!pc || argument.negated || argument.offset != 0)
    refuse("no label \"" + std::string(argument.text) + "\" here or in a scope around it");
  Operand operand;
  operand.offset = *pc;
  append(operand, Touch::nothing);
}

void Binder::append(const Operand& operand, Touch touch) {
  program_.operands.push_back(operand);
  touches_.push_back(operand.slot & Operand::in_constants ? Touch::nothing : touch);
}

}  // namespace sim::ptx
