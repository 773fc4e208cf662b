// mbarrier (PTX ISA, "Parallel Synchronization and Communication: mbarrier").
#include "isa/families.h"
#include "machine/cta.h"
#include "machine/grid_state.h"

namespace sim {
namespace {

// Lanes may name different barriers; most often all name one.
template <class F> void by_address(Warp& warp, const Operand& address, F visit) {
  for (Mask rest = warp.active; rest;) {
    u64 here = warp.address(address, __builtin_ctz(rest));
    Mask same = 0;
    for (Mask others = rest; others; others &= others - 1) {
      int lane = __builtin_ctz(others);
      if (warp.address(address, lane) == here) same |= Mask{1} << lane;
    }
    rest &= ~same;
    visit(here, same);
  }
}

Mbarrier& used(Warp& warp, u64 address, Mask lanes) {
  Origin origin = warp.origin();
  origin.lanes = lanes;
  bool remote = address >> 24 != warp.cta.rank;
  return warp.cluster.mbarrier(address, origin, warp.cluster.history ? &warp.view.known_to(lanes) : nullptr, remote);
}

Cta& home(Warp& warp, u64 address) { return *warp.cluster.ctas[address >> 24]; }

Step init(Warp& warp, const Inst& inst) {
  Cluster& cluster = warp.cluster;
  by_address(warp, inst.op[0], [&](u64 address, Mask lanes) {
    SharedPlace place = cluster.shared(address, 8, 8, warp.origin());
    u64 count = warp.value(inst.op[1], __builtin_ctz(lanes));
    if (count < 1 || count > Mbarrier::max_count)
      cluster.fault(check::Kind::barrier, "mbarrier.init takes a count of 1 to " + std::to_string(Mbarrier::max_count),
                    "shared " + hex(address), warp.origin(), "given " + std::to_string(count));
    if (Mbarrier* old = place.cta->mbarriers.find(place.offset); old && old->valid)
      cluster.fault(check::Kind::barrier, "mbarrier.init of an mbarrier that is in use", "shared " + hex(address),
                    warp.origin(),
                    "initialised at " + cluster.grid.line_of(old->init_pc) + "; mbarrier.inval must stand between");
    Mbarrier& barrier = place.cta->mbarriers.create(place.offset);
    barrier.valid = true;
    barrier.count = barrier.pending = static_cast<u32>(count);
    barrier.init_pc = warp.pc();
    barrier.init_agent = warp.view.agent();
    barrier.init_time = warp.view.now();
    barrier.init_lanes = lanes;
    cluster.trace(barrier, *place.cta, cluster.grid.line_of(warp.pc()) + " init by " + warp.name());
  });
  return Step::next();
}

Step invalidate(Warp& warp, const Inst& inst) {
  by_address(warp, inst.op[0], [&](u64 address, Mask lanes) { used(warp, address, lanes).valid = false; });
  return Step::next();
}

u32 arrivals(Warp& warp, const Inst& inst, u32 position, Mask lanes) {
  if (inst.ops <= position) return lane_count(lanes);
  u64 total = 0;
  for (Mask rest = lanes; rest; rest &= rest - 1) {
    u64 count = warp.value(inst.op[position], __builtin_ctz(rest));
    if (count < 1 || count > Mbarrier::max_count)
      warp.cluster.fault(check::Kind::barrier,
                         "mbarrier.arrive takes a count of 1 to " + std::to_string(Mbarrier::max_count), warp.name(),
                         warp.origin(), "given " + std::to_string(count));
    total += count;
  }
  return static_cast<u32>(total);
}

void arrive_at(Warp& warp, u64 address, Mask lanes, u32 count) {
  Mbarrier& barrier = used(warp, address, lanes);
  check::Knowledge passed = warp.cluster.history ? warp.view.release(lanes) : check::Knowledge{};
  Origin origin = warp.origin();
  origin.lanes = lanes;
  warp.cluster.arrive(barrier, home(warp, address), count, passed, origin);
}

Step arrive(Warp& warp, const Inst& inst) {
  by_address(warp, inst.op[1],
             [&](u64 address, Mask lanes) { arrive_at(warp, address, lanes, arrivals(warp, inst, 2, lanes)); });
  return Step::next();
}

void expect(Warp& warp, const Inst& inst, u32 bytes_at, u64 address, Mask lanes) {
  Mbarrier& barrier = used(warp, address, lanes);
  for (Mask rest = lanes; rest; rest &= rest - 1) {
    u64 bytes = warp.value(inst.op[bytes_at], __builtin_ctz(rest));
    if (bytes > static_cast<u64>(Mbarrier::max_tx))
      warp.cluster.fault(check::Kind::barrier, "expect_tx of more bytes than a tx-count holds",
                         "shared " + hex(address), warp.origin(),
                         "given " + std::to_string(bytes) + ", at most " + std::to_string(Mbarrier::max_tx));
    warp.cluster.expect_tx(barrier, static_cast<u32>(bytes), warp.origin());
  }
}

Step arrive_expect_tx(Warp& warp, const Inst& inst) {
  by_address(warp, inst.op[1], [&](u64 address, Mask lanes) {
    expect(warp, inst, 2, address, lanes);
    arrive_at(warp, address, lanes, lane_count(lanes));
  });
  return Step::next();
}

Step expect_tx(Warp& warp, const Inst& inst) {
  by_address(warp, inst.op[0], [&](u64 address, Mask lanes) { expect(warp, inst, 1, address, lanes); });
  return Step::next();
}

// try_wait may fail at any time (a random schedule makes it); else the lanes sleep until the phase ends. test_wait
// never sleeps.
template <bool sleeps> Step wait_parity(Warp& warp, const Inst& inst) {
  Cluster& cluster = warp.cluster;
  Mask passed = 0;
  const Mbarrier* missing = nullptr;
  u64 missing_address = 0;
  by_address(warp, inst.op[1], [&](u64 address, Mask lanes) {
    if (address >> 24 != warp.cta.rank)
      cluster.fault(check::Kind::barrier, "a thread can wait only for mbarriers of its own CTA",
                    "shared " + hex(address), warp.origin());
    Mbarrier& barrier = used(warp, address, lanes);
    Mask over = 0;
    for (Mask rest = lanes; rest; rest &= rest - 1) {
      int lane = __builtin_ctz(rest);
      if ((warp.value(inst.op[2], lane) & 1) != barrier.parity()) over |= Mask{1} << lane;
    }
    if (over != lanes) {
      missing = &barrier;
      missing_address = address;
    }
    if (!over) return;
    passed |= over;
    barrier.unobserved_copy = ~0u;
    if (cluster.history) warp.view.acquire(over, barrier.completed);
    cluster.trace(barrier, warp.cta, cluster.grid.line_of(warp.pc()) + " " + warp.name() + " passes");
  });
  bool random = cluster.grid.options.schedule == Schedule::random;
  if (sleeps && !passed && missing && !(random && cluster.engine.random()() % 8 == 0))
    return warp.wait(Waiting::On::mbarrier, missing->phase, static_cast<u32>(missing_address),
                     static_cast<u32>(warp.value(inst.op[2], warp.first_lane()) & 1));
  warp.write_predicate(inst.op[0], passed);
  return Step::next();
}

const Row rows[] = {
    {"mbarrier.init.shared[::cta].b64                                                [a], n:u32", init, Unit::memory},
    {"mbarrier.inval.shared[::cta].b64                                               [a]", invalidate, Unit::memory},
    {"mbarrier.arrive[.{release,relaxed}.{cta,cluster}].shared[::{cta,cluster}].b64  d, [a][, n:u32]", arrive,
     Unit::memory},
    {"mbarrier.arrive.expect_tx[.release.{cta,cluster}].shared[::{cta,cluster}].b64  d, [a], n:u32", arrive_expect_tx,
     Unit::memory},
    {"mbarrier.expect_tx.relaxed.{cta,cluster}.shared[::{cta,cluster}].b64           [a], n:u32", expect_tx,
     Unit::memory},
    {"mbarrier.try_wait.parity[.{acquire,relaxed}.{cta,cluster}].shared[::cta].b64   d:pred, [a], x:u32[, t:u32]",
     wait_parity<true>, Unit::memory},
    {"mbarrier.test_wait.parity[.acquire.{cta,cluster}].shared[::cta].b64            d:pred, [a], x:u32",
     wait_parity<false>, Unit::memory},
};

}  // namespace

std::span<const Row> mbarrier_rows() { return rows; }

}  // namespace sim
