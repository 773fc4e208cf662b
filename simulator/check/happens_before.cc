// Races in shared, tensor and global memory: each access against the last ones to the same place.
#include "check/happens_before.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>

#include "check/agents.h"
#include "check/global_history.h"
#include "check/race.h"
#include "check/shadow.h"

namespace sim::check {

namespace {

constexpr u32 tensor_halves = 8, tensor_columns = 512, cell_bytes = 4;

std::string byte_range(const char* space, u64 begin, u64 end) {
  return space + (" " + hex(begin)) + ".." + hex(end - 1) + ", " + std::to_string(end - begin) + " bytes";
}

// Cells of a row of 16 lanes follow each other, four "bytes" each.
std::string tensor_range(u64 begin, u64 end) {
  const u64 first = begin / cell_bytes, last = (end - 1) / cell_bytes;
  const u64 lane = first / tensor_columns * 16, columns = last - first + 1;
  const u64 column = first % tensor_columns;
  return "tensor memory lanes " + std::to_string(lane) + "-" + std::to_string(lane + 15) + ", " +
         (columns == 1 ? "column " + std::to_string(column)
                       : "columns " + std::to_string(column) + "-" + std::to_string(column + columns - 1));
}

// Adjacent findings of one access are one place.
struct Range {
  u64 begin, end;
};
struct Found {
  Entry first;
  Range range;
};

void extend(std::vector<Range>& ranges, u64 begin, u64 end) {
  if (!ranges.empty() && ranges.back().end == begin)
    ranges.back().end = end;
  else
    ranges.push_back({begin, end});
}

void extend(std::vector<Found>& found, const Entry& first, u64 begin, u64 end) {
  if (!found.empty()) {
    Found& last = found.back();
    if (last.range.end == begin && last.first.pc() == first.pc() && last.first.agent == first.agent &&
        last.first.cluster == first.cluster) {
      last.range.end = end;
      last.first.lanes |= first.lanes;
      return;
    }
  }
  found.push_back({first, {begin, end}});
}

}  // namespace

struct HappensBefore::State {
  u32 cluster, shared_base;
  std::shared_ptr<GlobalHistory> global;
  Reports& reports;
  std::shared_ptr<Agents> agents;
  std::vector<Shadow> shared, tensor;   // by CTA
  std::vector<Clock::Partial> issuers;  // by agent: the lanes that issued its latest operation, as far as known
  struct CachedPage {
    u64 number = ~u64{0};
    GlobalPage* page = nullptr;
  };
  std::array<CachedPage, 64> pages;

  // One access under way, to shared or tensor memory.
  struct Touch {
    Touch(Shadow& touched, const Access& made, bool several) : shadow(touched), access(made), repeats(several) {}
    Shadow& shadow;
    Access access;
    bool repeats;  // several cells
    Repetition repetition;
    std::vector<Found> found;
    std::vector<Range> uninitialised;
  };

  Access access(const Actor& actor, bool write, bool async);
  template <bool kWrite>
  void touch(Touch& touch, u32 begin, u32 end);
  template <bool kWrite>
  void check(Touch& touch, u32 cell, u32 begin, u32 end);
  template <bool kWrite>
  void shared_chunks(const Actor& actor, u32 cta, const u32* offsets, std::size_t count, u32 bytes);
  template <bool kWrite>
  void tensor_columns_of(const Actor& actor, u32 cta, u32 half, u32 column, u32 columns);
  void touch_global(Access access, u64 address, u64 bytes);
  void report(const Access& access, u32 cta, const Found& found, const char* memory, std::string range);
  void report_local(const Access& access, u32 cta, bool is_tensor, const std::vector<Found>& found,
                    const std::vector<Range>& uninitialised);
};

Access HappensBefore::State::access(const Actor& actor, bool write, bool async) {
  const Clock::Partial& asking = actor.known->generic.asking();
  if (asking.time && asking.agent != actor.agent) issuers[actor.agent] = asking;
  assert(actor.pc < Entry::pc_bits || actor.pc == Site::no_pc);
  Access access;
  access.time = actor.time;
  access.lanes = actor.lanes;
  access.site = (actor.pc & Entry::pc_bits) | (async ? Entry::async_bit : 0) | (actor.atomic ? Entry::atomic_bit : 0);
  access.cluster = cluster;
  access.agent = static_cast<u16>(actor.agent);
  access.write = write;
  access.known = actor.known;
  return access;
}

// [begin, end): four bytes a cell.
template <bool kWrite>
void HappensBefore::State::touch(Touch& touch, u32 begin, u32 end) {
  Shadow& shadow = touch.shadow;
  assert(begin <= end && end <= shadow.cells() * cell_bytes);
  while (begin < end) {
    const u32 next = std::min((begin | 3) + 1, end), cell = begin / cell_bytes;
    const bool whole = next - begin == cell_bytes;
    if (!whole || !shadow.repeat(cell, touch.repetition)) {
      touch.access.set_bytes(((1u << (next - begin)) - 1) << (begin & 3));
      check<kWrite>(touch, cell, begin, next);
    }
    begin = next;
  }
}

template <bool kWrite>
void HappensBefore::State::check(Touch& touch, u32 cell, u32 begin, u32 end) {
  Shadow& shadow = touch.shadow;
  const u32 bytes = touch.access.bytes();
  if (const u32 missing = kWrite ? 0 : shadow.uninitialised(cell, bytes)) [[unlikely]] {
    const u64 start = u64{cell} * cell_bytes;
    extend(touch.uninitialised, start + static_cast<u64>(std::countr_zero(missing)),
           start + static_cast<u64>(std::bit_width(missing)));
    shadow.initialise(cell, bytes);
  }
  if (touch.repeats && bytes == 15) {
    const Cell before = shadow.cell(cell);
    if (kWrite ? shadow.write(cell, touch.access) : shadow.read(cell, touch.access)) [[likely]]
      return shadow.remember(cell, before, touch.repetition);
  } else if (kWrite ? shadow.write(cell, touch.access) : shadow.read(cell, touch.access)) {
    return;
  }
  extend(touch.found, shadow.conflict(cell, touch.access), begin, end);
  shadow.disarm(cell);
  if (kWrite) shadow.initialise(cell, bytes);
}

template <bool kWrite>
void HappensBefore::State::shared_chunks(const Actor& actor, u32 cta, const u32* offsets, std::size_t count,
                                         u32 bytes) {
  Touch touching(shared[cta], access(actor, kWrite, actor.async_proxy), count * bytes > cell_bytes);
  for (std::size_t i = 0; i < count; ++i)
    touch<kWrite>(touching, offsets[i] - shared_base, offsets[i] - shared_base + bytes);
  if (!touching.found.empty() || !touching.uninitialised.empty()) [[unlikely]]
    report_local(touching.access, cta, false, touching.found, touching.uninitialised);
}

template <bool kWrite>
void HappensBefore::State::tensor_columns_of(const Actor& actor, u32 cta, u32 half, u32 column, u32 columns) {
  Touch touching(tensor[cta], access(actor, kWrite, false), true);
  const u32 first = half * tensor_columns + column;
  touch<kWrite>(touching, first * cell_bytes, (first + columns) * cell_bytes);
  if (!touching.found.empty() || !touching.uninitialised.empty()) [[unlikely]]
    report_local(touching.access, cta, true, touching.found, touching.uninitialised);
}

void HappensBefore::State::report_local(const Access& access, u32 cta, bool is_tensor, const std::vector<Found>& found,
                                        const std::vector<Range>& uninitialised) {
  const char* memory = is_tensor ? "tensor memory" : "shared memory";
  const auto text = [&](const Range& range) {
    return is_tensor ? tensor_range(range.begin, range.end)
                     : byte_range("shared", range.begin + shared_base, range.end + shared_base);
  };
  for (const Found& one : found) report(access, cta, one, memory, text(one.range));
  const u32 pc = report_pc(access.pc());
  for (const Range& range : uninitialised)
    if (!reports.seen(Kind::uninitialised, Site::no_pc, pc))
      reports.add(describe_uninitialised({memory, cta, text(range)}, access, *agents));
}

void HappensBefore::State::report(const Access& access, u32 cta, const Found& found, const char* memory,
                                  std::string range) {
  if (reports.seen(Kind::race, report_pc(found.first.pc()), report_pc(access.pc()))) return;
  const bool own = found.first.cluster == cluster;
  const std::shared_ptr<const Agents> first_agents = own ? agents : global->agents(found.first.cluster);
  const Clock::Partial issuer = own ? issuers[found.first.agent] : Clock::Partial{};
  reports.add(
      describe_race({memory, cta, std::move(range)}, {found.first, first_agents.get(), issuer}, access, *agents));
}

void HappensBefore::State::touch_global(Access access, u64 address, u64 bytes) {
  std::vector<Found> found;
  for (const u64 end = address + bytes; address < end;) {
    const u64 number = address / GlobalPage::bytes, start = number * GlobalPage::bytes;
    CachedPage& cached = pages[number % pages.size()];
    if (cached.number != number) cached = {number, &global->page(number)};
    const u64 stop = std::min(start + GlobalPage::bytes, end);
    cached.page->access(access, static_cast<u32>(address - start), static_cast<u32>(stop - start),
                        [&](const Entry& first, u32 from, u32 to) { extend(found, first, start + from, start + to); });
    address = stop;
  }
  for (const Found& one : found)
    report(access, agents->cta_of(access.agent), one, "global memory",
           byte_range("global", one.range.begin, one.range.end));
}

HappensBefore::HappensBefore(u32 cluster, u32 ctas, u32 shared_bytes, u32 shared_base,
                             std::shared_ptr<GlobalHistory> global, Reports& reports, std::vector<Dim3> cta_ids)
    : state_(new State{cluster, shared_base, std::move(global), reports,
                       std::make_shared<Agents>(std::move(cta_ids)), {}, {}, {}, {}}) {
  for (u32 cta = 0; cta < ctas; ++cta) {
    state_->shared.emplace_back(cluster, (shared_bytes + cell_bytes - 1) / cell_bytes);
    state_->tensor.emplace_back(cluster, tensor_halves * tensor_columns);
  }
  state_->global->enter(cluster, state_->agents);
}

HappensBefore::~HappensBefore() = default;

Agent HappensBefore::agent(AgentKind kind, u32 cta, u32 index) {
  state_->issuers.emplace_back();
  return state_->agents->add(kind, cta, index);
}

void HappensBefore::read_shared(const Actor& actor, u32 cta, u32 offset, u32 bytes) {
  state_->shared_chunks<false>(actor, cta, &offset, 1, bytes);
}

void HappensBefore::write_shared(const Actor& actor, u32 cta, u32 offset, u32 bytes) {
  state_->shared_chunks<true>(actor, cta, &offset, 1, bytes);
}

void HappensBefore::read_shared(const Actor& actor, u32 cta, std::span<const u32> offsets, u32 bytes) {
  state_->shared_chunks<false>(actor, cta, offsets.data(), offsets.size(), bytes);
}

void HappensBefore::write_shared(const Actor& actor, u32 cta, std::span<const u32> offsets, u32 bytes) {
  state_->shared_chunks<true>(actor, cta, offsets.data(), offsets.size(), bytes);
}

void HappensBefore::read_tensor(const Actor& actor, u32 cta, u32 half, u32 column, u32 columns) {
  state_->tensor_columns_of<false>(actor, cta, half, column, columns);
}

void HappensBefore::write_tensor(const Actor& actor, u32 cta, u32 half, u32 column, u32 columns) {
  state_->tensor_columns_of<true>(actor, cta, half, column, columns);
}

void HappensBefore::forget_tensor(u32 cta, u32 column, u32 columns) {
  for (u32 half = 0; half < tensor_halves; ++half)
    for (u32 cell = half * tensor_columns + column; cell < half * tensor_columns + column + columns; ++cell)
      state_->tensor[cta].forget(cell);
}

void HappensBefore::read_global(const Actor& actor, u64 address, u64 bytes) {
  state_->touch_global(state_->access(actor, false, actor.async_proxy), address, bytes);
}

void HappensBefore::write_global(const Actor& actor, u64 address, u64 bytes) {
  state_->touch_global(state_->access(actor, true, actor.async_proxy), address, bytes);
}

}  // namespace sim::check
