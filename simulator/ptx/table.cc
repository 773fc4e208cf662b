// The instruction table as a whole: spelling -> row, and the nearest spelling for errors.
#include <algorithm>

#include "ptx/syntax.h"

namespace sim::ptx {
namespace {

// A type of twice the width: mul.wide.s32 writes s64.
std::string_view doubled(std::string_view type) {
  if (type == "s16" || type == "u16" || type == "b16") return "b32";
  if (type == "s32" || type == "u32" || type == "b32") return "b64";
  if (type == "s64" || type == "u64" || type == "b64") return "b128";
  return {};
}

std::string quoted(const Row& row) { return "\"" + std::string(row.syntax) + "\""; }

void check_types(const Row& row, const Pattern& pattern, const std::string& opcode) {
  Spelling spelling = split(opcode);
  auto check = [&](const Form& form) {
    bool needs_type = form.shape != Form::label && form.width != Form::any;
    if (needs_type && type_of(form, spelling).empty())
      throw Error("instruction table, row " + quoted(row) + ": \"" + opcode + "\" does not say the type of an operand");
  };
  for (const Place& place : pattern.places) {
    for (const Form& form : place.forms) check(form);
    if (place.second) check(*place.second);
  }
}

// Insertions, deletions and replacements that make one word of the other; beyond `limit`, any number above it.
std::size_t distance(std::string_view from, std::string_view to, std::size_t limit) {
  std::size_t difference = from.size() > to.size() ? from.size() - to.size() : to.size() - from.size();
  if (difference > limit) return difference;
  std::vector<std::size_t> row(to.size() + 1);
  for (std::size_t j = 0; j <= to.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= from.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= to.size(); ++j) {
      std::size_t replaced = diagonal + (from[i - 1] != to[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[to.size()];
}

}  // namespace

std::string_view type_of(const Form& form, const Spelling& spelling) {
  switch (form.width) {
    case Form::own:
    case Form::part: return spelling.type();
    case Form::before: return spelling.type(1);
    case Form::wide: return doubled(spelling.type());
    case Form::typed: return form.type;
    case Form::any: return {};
  }
  return {};
}

Table::Table(std::span<const Row> rows) : rows_(rows) {
  if (rows.size() > 0xFFFF) throw Error("instruction table: more than 65535 rows");
  for (u32 i = 0; i < rows.size(); ++i) {
    if (rows[i].body.empty()) throw Error("instruction table, row " + quoted(rows[i]) + ": it has no body");
    patterns_.push_back(ptx::pattern(rows[i]));
    for (std::string& opcode : ptx::spellings(rows[i])) {
      check_types(rows[i], patterns_.back(), opcode);
      auto [known, is_new] = index_.emplace(std::move(opcode), i);
      if (!is_new)
        throw Error("instruction table: \"" + known->first + "\" belongs to row " + quoted(rows[known->second]) +
                    " and to row " + quoted(rows[i]));
    }
  }
}

u32 Table::find(std::string_view opcode) const {
  auto found = index_.find(opcode);
  return found == index_.end() ? none : found->second;
}

std::string Table::nearest(std::string_view opcode) const {
  std::string_view family = opcode.substr(0, opcode.find('.'));
  for (bool any_family : {false, true}) {
    const std::string* best = nullptr;
    std::size_t least = 200;
    for (const auto& [spelling, row] : index_) {
      if (!any_family && std::string_view(spelling).substr(0, spelling.find('.')) != family) continue;
      std::size_t found = distance(opcode, spelling, least);
      if (found > least || (found == least && best && *best < spelling)) continue;  // the same answer at every run
      least = found;
      best = &spelling;
    }
    if (best) return *best;
  }
  return {};
}

void check_table(std::span<const Row> rows) { Table{rows}; }

}  // namespace sim::ptx
