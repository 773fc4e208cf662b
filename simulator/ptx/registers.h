// Where a kernel's names live: the warp's register file, the constant pool, and what the warp's start fills in.
#pragma once

#include <map>
#include <optional>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "ptx/ptx.h"

namespace sim::ptx {

// What a name stands for.
struct Named {
  enum Kind : u8 { nothing, variable_register, special, parameter, shared };
  Kind kind = nothing;
  Operand place;                      // of a register
  Special what = Special::tid_x;      // a special register; dynamic_shared or static_shared
  u32 offset = 0;                     // of a parameter or static shared variable
};

// Slots are given out when a register is first named, so that ones that are only declared cost nothing.
class RegisterFile {
 public:
  RegisterFile(const Module& module, const Kernel& kernel, Program& program);

  Named find(std::string_view name, u32 scope);
  std::optional<u32> label(std::string_view name, u32 scope) const;

  Operand constant(u64 bits, u8 bytes);  // 0 bytes: a predicate
  Operand filled(Special what, u32 addend, u8 bytes);
  Operand sink(u8 bytes);

 private:
  struct Names {
    std::unordered_map<std::string_view, Named> known;
    std::vector<const Registers*> numbered;
    std::unordered_map<std::string_view, Label> labels;
  };
  void declare(const Scope& scope, Names& names);
  void declare(const Variable& variable, Names& names);
  void insert(Names& names, std::string_view name, const Named& named, u32 line);
  Named numbered(Names& names, std::string_view name);
  u32 allocate(u32 bytes);

  const Module& module_;
  const Kernel& kernel_;
  Program& program_;
  Names outside_;              // parameters, the module's variables
  std::vector<Names> scopes_;
  std::map<std::pair<u64, u8>, u32> constants_;
  std::map<std::tuple<Special, u32, u8>, u32> filled_;
  std::optional<u32> sink_;
};

}  // namespace sim::ptx
