// Module's kernel -> sim::Program: names become places in the register file, opcodes become bodies.
//
// All checks of kinds, counts and widths of operands are made here, against the row's pattern, so that no operand of a
// bound program reaches beyond its register. Code that ends without ret or exit needs no statement: the machine takes
// pc == code.size() for an exit, and a label may stand there.
#pragma once

#include <unordered_map>
#include <vector>

#include "ptx/ptx.h"
#include "ptx/registers.h"
#include "ptx/syntax.h"

namespace sim::ptx {

// How an instruction touches the register of an operand.
enum class Touch : u8 { nothing, reads, writes };

class Binder {
 public:
  Binder(const Module& module, const Kernel& kernel, const Table& table, Program& program);
  void run();

 private:
  struct Opcode {
    Spelling spelling;
    u32 row;
  };
  // What is left to be done when all operands have their final place.
  struct Open {
    const Opcode* opcode;
    std::vector<u32> group;
  };

  // bind.cc
  void header();
  void statement(const Statement& statement);
  void guard(Inst& inst);
  const Opcode& opcode(std::string_view text);
  void choose_bodies();

  using Chosen = std::vector<const Argument*>;  // by place of the pattern; null: the operand is absent

  // operands.cc: these append to Program::operands, for the statement at hand
  void operands(const Pattern& pattern, std::vector<u32>& group);
  bool assign(const Pattern& pattern, std::size_t place, std::size_t argument, Chosen& chosen) const;
  void operand(const Place& place, const Argument& argument);
  void form(const Form& form, const Argument& argument);
  void value(const Form& form, const Argument& argument, std::size_t elements);
  void name(const Form& form, const Argument& argument, std::optional<u8> bytes);
  void in_register(const Form& form, const Argument& argument, const Operand& place, std::optional<u8> bytes);
  void literal(const Form& form, const Argument& argument, std::optional<u8> bytes);
  u64 literal_bits(const Argument& argument, std::string_view type, u8 bytes) const;
  void address(const Form& form, const Argument& argument);
  Operand base(const Form& form, const Argument& argument);
  void label(const Argument& argument);
  void append(const Operand& operand, Touch touch);

  // "forward.ptx:73: why"
  [[noreturn]] void refuse(const std::string& why) const;
  std::string spelled() const { return std::string(opcode_->spelling.text); }

  const Module& module_;
  const Kernel& kernel_;
  const Table& table_;
  Program& program_;
  RegisterFile registers_;
  std::unordered_map<std::string_view, Opcode> opcodes_;
  std::vector<Open> open_;       // by pc
  std::vector<Touch> touches_;   // by operand
  const Statement* statement_ = nullptr;
  const Opcode* opcode_ = nullptr;
};

// Fills Inst::awaits and Program::awaited.
void find_awaited(Program& program, std::span<const Touch> touches, const Table& table);

}  // namespace sim::ptx
