// The instruction table as data: what each row's syntax line (isa/row.h) matches.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ptx/ptx.h"

namespace sim::ptx {

// One form that an operand may take.
struct Form {
  enum Shape : u8 { value, vector, address, label, constant };
  enum Width : u8 { own, before, wide, part, any, typed };  // d, d:before, d:wide, {d:part}, d:any, d:b64 in isa/row.h
  Shape shape = value;
  Width width = own;
  std::string_view type{};   // if typed
  bool wider = false;        // a+
  bool negatable = false;    // a!
  bool written = false;
  bool coordinates = false;  // of an address
};

// An operand of a pattern.
struct Place {
  std::vector<Form> forms;          // alternatives, each of another shape
  std::optional<Form> second;       // of two results
  bool second_optional = false;
  bool optional = false;
  std::string_view modifier;        // it stands exactly when the opcode has this
};

struct Pattern {
  std::vector<Place> places;
  std::string_view text;  // "d, [a][, n:u32]"
};

// The operands' part of a row's syntax; throws Error naming the row.
Pattern pattern(const Row& row);

// The type that a form asks for in this spelling; none for :any.
std::string_view type_of(const Form& form, const Spelling& spelling);

// "a.b::c.d" at its dots.
Spelling split(std::string_view opcode);

// A whole table, checked: every spelling belongs to one row, every row has a body and operands that can be read.
class Table {
 public:
  explicit Table(std::span<const Row> rows);

  static constexpr u32 none = 0xFFFFFFFF;
  u32 find(std::string_view opcode) const;  // a row's index, or none
  const Row& row(u32 index) const { return rows_[index]; }
  const Pattern& pattern(u32 index) const { return patterns_[index]; }
  std::string nearest(std::string_view opcode) const;

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  std::span<const Row> rows_;
  std::vector<Pattern> patterns_;
  std::unordered_map<std::string, u32, Hash, std::equal_to<>> index_;
};

}  // namespace sim::ptx
