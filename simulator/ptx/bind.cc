// Module's kernel -> sim::Program: statements.
#include "ptx/bind.h"

namespace sim::ptx {
namespace {

// One blank for each run of blanks and comments.
std::string normalised(std::string_view text) {
  std::string out;
  bool blank = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string_view rest = text.substr(i);
    if (rest.starts_with("//") || rest.starts_with("/*")) {
      std::size_t end = rest[1] == '/' ? rest.find('\n') : rest.find("*/") + 1;
      i += std::min(end, rest.size() - 1);
      blank = true;
    } else if (rest[0] == ' ' || rest[0] == '\t' || rest[0] == '\n' || rest[0] == '\r') {
      blank = true;
    } else {
      if (blank && !out.empty()) out += ' ';
      blank = false;
      out += rest[0];
    }
  }
  return out;
}

// The table of all families is read once.
const Table& whole_table() {
  static const Table whole(table());
  return whole;
}

const Kernel& chosen_kernel(const Module& module, std::string_view entry) {
  std::string known;
  for (const Kernel& kernel : module.kernels) {
    if (kernel.name == entry || (entry.empty() && module.kernels.size() == 1)) return kernel;
    known += (known.empty() ? "" : ", ") + std::string(kernel.name);
  }
  if (known.empty()) known = "none";
  throw Error(module.file + ": no kernel \"" + std::string(entry) + "\"; there are: " + known);
}

}  // namespace

Binder::Binder(const Module& module, const Kernel& kernel, const Table& table, Program& program)
    : module_(module), kernel_(kernel), table_(table), program_(program), registers_(module, kernel, program) {}

void Binder::run() {
  header();
  program_.code.reserve(kernel_.statements.size());
  for (const Statement& one : kernel_.statements) statement(one);
  choose_bodies();
  find_awaited(program_, touches_, table_);
}

void Binder::header() {
  program_.name = kernel_.name;
  program_.file = module_.file;
  program_.target = module_.target;
  program_.parameters = kernel_.parameters;
  program_.parameter_bytes = kernel_.parameter_bytes;
  program_.required_threads = kernel_.required_threads;
  program_.max_threads = kernel_.max_threads;
  program_.sources = kernel_.sources;
}

void Binder::statement(const Statement& statement) {
  statement_ = &statement;
  opcode_ = &opcode(statement.opcode);
  Inst inst;
  inst.row = static_cast<u16>(opcode_->row);
  inst.line = statement.line;
  inst.source = statement.source;
  if (!statement.guard.empty()) guard(inst);
  Open open{opcode_, {}};
  std::size_t first = program_.operands.size();
  operands(table_.pattern(opcode_->row), open.group);
  inst.ops = static_cast<u16>(program_.operands.size() - first);
  program_.code.push_back(inst);
  program_.text.push_back(normalised(statement.text));
  open_.push_back(std::move(open));
}

void Binder::guard(Inst& inst) {
  Named named = registers_.find(statement_->guard, statement_->scope);
  if (named.kind != Named::variable_register || named.place.bytes != 0)
    refuse("the guard @" + std::string(statement_->guard) + " is not a declared predicate");
  inst.guard = named.place.slot;
  inst.guard_negate = statement_->guard_negated;
}

const Binder::Opcode& Binder::opcode(std::string_view text) {
  auto known = opcodes_.find(text);
  if (known != opcodes_.end()) return known->second;
  u32 row = table_.find(text);
  if (row == Table::none) {
    std::string nearest = table_.nearest(text);
    if (!nearest.empty()) nearest = "; nearest is \"" + nearest + "\"";
    refuse("no instruction \"" + std::string(text) + "\"" + nearest);
  }
  Opcode& found = opcodes_.emplace(text, Opcode{split(text), row}).first->second;
  program_.pairs_ctas = program_.pairs_ctas || found.spelling.has("cta_group::2");
  return found;
}

// Bodies see operands where they will stay: Inst::op points into Program::operands.
void Binder::choose_bodies() {
  const Operand* next = program_.operands.data();
  for (std::size_t pc = 0; pc < program_.code.size(); ++pc) {
    Inst& inst = program_.code[pc];
    inst.op = next;
    next += inst.ops;
    std::string where = module_.at(inst.line);
    const Spelling& spelling = open_[pc].opcode->spelling;
    Binding binding{spelling, inst, {inst.op, inst.ops}, std::move(open_[pc].group), &where};
    Body body = table_.row(open_[pc].opcode->row).body;
    inst.execute = body(binding);
    if (!inst.execute) binding.refuse("this form has no body");
  }
}

void Binder::refuse(const std::string& why) const { throw Error(module_.at(statement_->line) + ": " + why); }

std::shared_ptr<const Program> bind(const Module& module, std::string_view entry, std::span<const Row> rows) {
  const Kernel& kernel = chosen_kernel(module, entry);
  auto program = std::make_shared<Program>();
  bool whole = rows.data() == table().data() && rows.size() == table().size();
  if (whole) Binder(module, kernel, whole_table(), *program).run();
  else Binder(module, kernel, Table(rows), *program).run();
  return program;
}

}  // namespace sim::ptx
