// Where a kernel's names live (PTX ISA, "State Spaces", "Special Registers").
#include "ptx/registers.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

namespace sim::ptx {
namespace {

constexpr u32 unnamed = 0xFFFFFFFF;           // the slot of a register that no statement has named yet
constexpr u32 slot_align = 64;
constexpr u32 most_slots = 1u << 30;          // bytes
constexpr u32 most_static_shared = 232448;

constexpr std::array<std::pair<std::string_view, Special>, 36> specials{{
    {"%tid.x", Special::tid_x},
    {"%tid.y", Special::tid_y},
    {"%tid.z", Special::tid_z},
    {"%ntid.x", Special::ntid_x},
    {"%ntid.y", Special::ntid_y},
    {"%ntid.z", Special::ntid_z},
    {"%ctaid.x", Special::ctaid_x},
    {"%ctaid.y", Special::ctaid_y},
    {"%ctaid.z", Special::ctaid_z},
    {"%nctaid.x", Special::nctaid_x},
    {"%nctaid.y", Special::nctaid_y},
    {"%nctaid.z", Special::nctaid_z},
    {"%laneid", Special::laneid},
    {"%warpid", Special::warpid},
    {"%nwarpid", Special::nwarpid},
    {"%clusterid.x", Special::clusterid_x},
    {"%clusterid.y", Special::clusterid_y},
    {"%clusterid.z", Special::clusterid_z},
    {"%nclusterid.x", Special::nclusterid_x},
    {"%nclusterid.y", Special::nclusterid_y},
    {"%nclusterid.z", Special::nclusterid_z},
    {"%cluster_ctaid.x", Special::cluster_ctaid_x},
    {"%cluster_ctaid.y", Special::cluster_ctaid_y},
    {"%cluster_ctaid.z", Special::cluster_ctaid_z},
    {"%cluster_nctaid.x", Special::cluster_nctaid_x},
    {"%cluster_nctaid.y", Special::cluster_nctaid_y},
    {"%cluster_nctaid.z", Special::cluster_nctaid_z},
    {"%cluster_ctarank", Special::cluster_ctarank},
    {"%cluster_nctarank", Special::cluster_nctarank},
    {"%lanemask_eq", Special::lanemask_eq},
    {"%lanemask_lt", Special::lanemask_lt},
    {"%lanemask_le", Special::lanemask_le},
    {"%lanemask_gt", Special::lanemask_gt},
    {"%lanemask_ge", Special::lanemask_ge},
    {"%smid", Special::smid},
    {"%nsmid", Special::nsmid},
}};

// Whether `name` is one of %r<count>: the prefix and a number below count, written without leading zeros.
bool belongs(std::string_view name, const Registers& group) {
  if (!name.starts_with(group.name)) return false;
  std::string_view digits = name.substr(group.name.size());
  if (digits.empty() || (digits[0] == '0' && digits.size() > 1)) return false;
  u32 number = 0;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return error == std::errc() && end == digits.data() + digits.size() && number < group.count;
}

Named register_of(u8 bytes) {
  Named named;
  named.kind = Named::variable_register;
  named.place.slot = unnamed;
  named.place.bytes = bytes;
  return named;
}

u32 lane_bytes(u8 bytes) { return bytes == 0 ? u32{sizeof(Mask)} : u32{bytes} * warp_size; }

}  // namespace

RegisterFile::RegisterFile(const Module& module, const Kernel& kernel, Program& program)
    : module_(module), kernel_(kernel), program_(program), scopes_(kernel.scopes.size()) {
  for (const Parameter& parameter : kernel.parameters) {
    Named named;
    named.kind = Named::parameter;
    named.offset = parameter.offset;
    insert(outside_, parameter.name, named, kernel.line);
  }
  for (const Variable& variable : module.variables) declare(variable, outside_);
  for (std::size_t i = 0; i < scopes_.size(); ++i) declare(kernel.scopes[i], scopes_[i]);
}

void RegisterFile::insert(Names& names, std::string_view name, const Named& named, u32 line) {
  if (!names.known.emplace(name, named).second)
    throw Error(module_.at(line) + ": \"" + std::string(name) + "\" is declared twice in this scope");
}

void RegisterFile::declare(const Variable& variable, Names& names) {
  Named named;
  named.kind = Named::shared;
  if (variable.dynamic) {
    named.what = Special::dynamic_shared;
    program_.dynamic_shared_align = std::max(program_.dynamic_shared_align, variable.align);
  } else {
    named.what = Special::static_shared;
    named.offset = (program_.static_shared_bytes + variable.align - 1) / variable.align * variable.align;
    program_.static_shared_bytes = named.offset + variable.bytes;
    if (program_.static_shared_bytes > most_static_shared)
      throw Error(module_.at(variable.line) + ": more than " + std::to_string(most_static_shared) +
                  " bytes of static shared memory");
  }
  insert(names, variable.name, named, variable.line);
}

void RegisterFile::declare(const Scope& scope, Names& names) {
  for (const Registers& group : scope.registers) {
    if (!group.numbered) {
      insert(names, group.name, register_of(group.bytes), group.line);
      continue;
    }
    for (const Registers* other : names.numbered)
      if (other->name == group.name)
        throw Error(module_.at(group.line) + ": \"" + std::string(group.name) + "<>\" is declared twice in this scope");
    names.numbered.push_back(&group);
  }
  for (const Variable& variable : scope.variables) declare(variable, names);
  for (const auto& [name, named] : names.known)
    for (const Registers* group : names.numbered)
      if (belongs(name, *group))
        throw Error(module_.at(group->line) + ": \"" + std::string(name) + "\" is declared twice in this scope");
  for (const Label& label : scope.labels)
    if (!names.labels.emplace(label.name, label).second)
      throw Error(module_.at(label.line) + ": \"" + std::string(label.name) + "\" is a label twice in this scope");
}

Named RegisterFile::numbered(Names& names, std::string_view name) {
  Named named;
  for (const Registers* group : names.numbered) {
    if (!belongs(name, *group)) continue;
    if (named.kind != Named::nothing)
      throw Error(module_.at(group->line) + ": \"" + std::string(name) + "\" is declared twice in this scope");
    named = register_of(group->bytes);
  }
  return named;
}

Named RegisterFile::find(std::string_view name, u32 scope) {
  for (; scope != Scope::none; scope = kernel_.scopes[scope].parent) {
    Names& names = scopes_[scope];
    auto found = names.known.find(name);
    if (found == names.known.end()) {
      Named named = numbered(names, name);
      if (named.kind == Named::nothing) continue;
      found = names.known.emplace(name, named).first;
    }
    Operand& place = found->second.place;
    bool is_new = found->second.kind == Named::variable_register && place.slot == unnamed;
    if (is_new) place.slot = allocate(lane_bytes(place.bytes));
    return found->second;
  }
  if (auto found = outside_.known.find(name); found != outside_.known.end()) return found->second;
  auto named_so = [&](const auto& row) { return row.first == name; };
  const auto* found = std::find_if(specials.begin(), specials.end(), named_so);
  Named named;
  if (found != specials.end()) {
    named.kind = Named::special;
    named.what = found->second;
  }
  return named;
}

std::optional<u32> RegisterFile::label(std::string_view name, u32 scope) const {
  for (; scope != Scope::none; scope = kernel_.scopes[scope].parent) {
    auto found = scopes_[scope].labels.find(name);
    if (found != scopes_[scope].labels.end()) return found->second.pc;
  }
  return std::nullopt;
}

u32 RegisterFile::allocate(u32 bytes) {
  u32 slot = program_.register_bytes;
  if (slot > most_slots) throw Error(module_.at(kernel_.line) + ": the kernel names too many registers");
  program_.register_bytes += (bytes + slot_align - 1) / slot_align * slot_align;
  return slot;
}

Operand RegisterFile::constant(u64 bits, u8 bytes) {
  Operand operand;
  operand.bytes = bytes;
  auto [known, is_new] = constants_.try_emplace({bits, bytes}, static_cast<u32>(program_.constants.size()));
  operand.slot = known->second | Operand::in_constants;
  if (!is_new) return operand;
  std::vector<u8>& pool = program_.constants;
  if (pool.size() > most_slots) throw Error(module_.at(kernel_.line) + ": the kernel has too many constants");
  pool.resize(known->second + (lane_bytes(bytes) + slot_align - 1) / slot_align * slot_align);
  Mask mask = bits ? all_lanes : 0;
  if (bytes == 0) std::memcpy(&pool[known->second], &mask, sizeof mask);
  for (u32 lane = 0; bytes != 0 && lane < warp_size; ++lane)
    std::memcpy(&pool[known->second + lane * bytes], &bits, std::min<std::size_t>(bytes, sizeof bits));
  return operand;
}

Operand RegisterFile::filled(Special what, u32 addend, u8 bytes) {
  auto [known, is_new] = filled_.try_emplace({what, addend, bytes}, 0);
  if (is_new) {
    known->second = allocate(lane_bytes(bytes));
    program_.filled.push_back({what, known->second, bytes, addend});
  }
  Operand operand;
  operand.slot = known->second;
  operand.bytes = bytes;
  return operand;
}

// One place for all widths: nobody reads it.
Operand RegisterFile::sink(u8 bytes) {
  if (!sink_) sink_ = allocate(16 * warp_size);
  Operand operand;
  operand.slot = *sink_;
  operand.bytes = bytes;
  operand.sink = true;
  return operand;
}

}  // namespace sim::ptx
