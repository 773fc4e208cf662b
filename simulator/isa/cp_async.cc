// cp.async (PTX ISA, "Data Movement: Non-bulk copy"): each lane copies up to 16 bytes from global to shared memory, in
// groups.
#include <cstring>

#include "isa/families.h"
#include "isa/strong.h"
#include "machine/cta.h"
#include "machine/grid_state.h"

namespace sim {
namespace {

// Of one lane. Bytes beyond `read` are zeros.
struct Copy {
  u8* to;
  const u8* from;
  u32 offset, bytes, read;
  u64 number;
};

Copy copy_of(Warp& warp, const Inst& inst, int lane) {
  Cluster& cluster = warp.cluster;
  Origin origin = warp.origin("cp.async");
  origin.lanes = Mask{1} << lane;
  const u32 bytes = inst.field[0];
  const u64 read = inst.field[1] ? warp.value(inst.op[3], lane) : bytes;
  if (read > bytes)
    cluster.fault(check::Kind::undefined, "cp.async reads more than it writes",
                  std::to_string(read) + " of " + std::to_string(bytes) + " bytes", origin);
  const SharedPlace place = cluster.shared(warp.address(inst.op[0], lane), bytes, bytes, origin);
  if (place.cta != &warp.cta)
    cluster.fault(check::Kind::out_of_bounds, "cp.async writes to its own CTA only",
                  "shared " + hex(place.cta->shared_address(place.offset)), origin);
  cluster.refuse_mbarrier(place, bytes, true, origin);
  const u8* from = read ? cluster.global(warp.address(inst.op[1], lane), read, bytes, false, origin) : nullptr;
  const u64 number = warp.copies.issue(lane, warp.pc());
  return {place.cta->shared(place.offset), from, place.offset, bytes, static_cast<u32>(read), number};
}

void perform(Warp& warp, const Copy& copy, const check::Actor& actor) {
  if (check::HappensBefore* history = warp.cluster.history.get()) {
    if (copy.read) history->read_global(actor, reinterpret_cast<u64>(copy.from), copy.read);
    history->write_shared(actor, warp.cta.rank, copy.offset, copy.bytes);
  }
  if (copy.read) std::memcpy(copy.to, copy.from, copy.read);
  std::memset(copy.to + copy.read, 0, copy.bytes - copy.read);
  warp.cluster.counters.copy_bytes += copy.read;
  warp.copies.finished_reading(copy.number);
  warp.copies.finished_writing(copy.number);
}

Step copy(Warp& warp, const Inst& inst) {
  Cluster& cluster = warp.cluster;
  std::vector<Copy> copies;
  for (Mask rest = warp.active; rest; rest &= rest - 1) copies.push_back(copy_of(warp, inst, __builtin_ctz(rest)));
  Known known;
  if (cluster.history) {
    if (!warp.copy_agent)
      warp.copy_agent = cluster.history->agent(check::AgentKind::cp_async, warp.cta.rank, warp.index);
    known = std::make_shared<const check::Knowledge>(warp.view.known_to(warp.active));
  }
  cluster.engine.submit([&warp, copies = std::move(copies), known, time = warp.copy_time, pc = warp.pc()] {
    const check::Actor actor{warp.copy_agent, time, all_lanes, false, pc, known.get(), false};
    for (const Copy& one : copies) perform(warp, one, actor);
  });
  return Step::next();
}

Execute bind_copy(Binding& binding) {
  const i64 bytes = binding.op[2].offset;
  const bool only_16 = binding.spelling.has("cg");
  if (bytes != 16 && (only_16 || (bytes != 4 && bytes != 8)))
    binding.refuse("the size is " + std::to_string(bytes) + ": it must be " + (only_16 ? "16" : "4, 8 or 16"));
  binding.inst.field[0] = static_cast<u32>(bytes);
  binding.inst.field[1] = binding.group[3];
  return copy;
}

void commit(Warp& warp) { warp.copies.commit(warp.active, warp.copy_time++); }

Step commit_group(Warp& warp, const Inst&) {
  commit(warp);
  return Step::next();
}

// cp.async writes by the generic proxy, so what is learnt here is not yet visible to the async proxy.
Step wait(Warp& warp, u32 allowed) {
  check::Time known = 0;
  if (!warp.copies.await(warp.active, allowed, false, known))
    return warp.wait(Waiting::On::bulk_group, warp.copies.version, 0, allowed);
  if (warp.copy_agent && known) {
    check::Knowledge complete;
    complete.generic.learn(warp.copy_agent, known);
    warp.view.acquire(warp.active, complete);
  }
  return Step::next();
}

Step wait_group(Warp& warp, const Inst& inst) { return wait(warp, static_cast<u32>(inst.op[0].offset)); }

Step wait_all(Warp& warp, const Inst&) {
  commit(warp);
  return wait(warp, 0);
}

const Row rows[] = {
    {"cp.async.{ca,cg}.shared[::cta].global[.L2::cache_hint][.L2::{64B,128B,256B}]"
     "  [a], [b], #n[, s:u32][L2::cache_hint, p:b64]", bind_copy, Unit::memory},
    {"cp.async.commit_group", commit_group, Unit::control},
    {"cp.async.wait_group   #n", wait_group, Unit::control},
    {"cp.async.wait_all", wait_all, Unit::control},
};

}  // namespace

std::span<const Row> cp_async_rows() { return rows; }

}  // namespace sim
