// cp.async.bulk and cp.reduce.async.bulk (PTX ISA, "Data Movement: Non-tensor copy instructions").
#include <algorithm>
#include <atomic>
#include <cstring>

#include "isa/bulk.h"
#include "isa/families.h"

namespace sim {
namespace {

struct Linear {
  u64 destination, source;
  u32 bytes;
};

Linear operands(Warp& warp, const Inst& inst, const Issue& made) {
  Linear copy{warp.address(inst.op[0], made.lane), warp.address(inst.op[1], made.lane),
              static_cast<u32>(warp.value(inst.op[2], made.lane))};
  require_multiple_of_16(warp.cluster, copy.bytes, "size", made);
  require_multiple_of_16(warp.cluster, copy.destination, "destination", made);
  require_multiple_of_16(warp.cluster, copy.source, "source", made);
  return copy;
}

void write_shared(Cluster& cluster, u64 address, const u8* from, u32 bytes, const Signal& signalled,
                  const Issue& made) {
  SharedPlace place = cluster.shared(address, bytes, 16, made.origin);
  cluster.refuse_mbarrier(place, bytes, true, made.origin);
  if (cluster.history)
    cluster.history->write_shared(made.actor(signalled.barrier->copy_agent, signalled.barrier->copy_time),
                                  place.cta->rank, place.offset, bytes);
  std::memcpy(place.cta->shared(place.offset), from, bytes);
  cluster.counters.copy_bytes += bytes;
}

// global -> shared, in this CTA or at the same offset in each CTA of a mask; each gets its own signal.
Step load(Warp& warp, const Inst& inst) {
  Issue made = issue(warp, "bulk copy");
  Linear copy = operands(warp, inst, made);
  u64 barrier = warp.address(inst.op[3], made.lane);
  bool multicast = inst.field[0];
  u32 mask = multicast ? static_cast<u32>(warp.value(inst.op[4], made.lane)) : 0;
  Cluster& cluster = warp.cluster;
  if (multicast) require_ctas(cluster, mask, made);
  cluster.engine.submit([=, &cluster] {
    for (u32 rank = 0; rank < (multicast ? cluster.ctas.size() : 1); ++rank) {
      if (multicast && !(mask >> rank & 1)) continue;
      auto in_cta = [&](u64 address) { return multicast ? (address & 0xFFFFFF) | u64{rank} << 24 : address; };
      Signal signalled = signal(cluster, in_cta(barrier), made);
      check::Actor actor = made.actor(signalled.barrier->copy_agent, signalled.barrier->copy_time);
      const u8* from = read_global(cluster, copy.source, copy.bytes, actor, made);
      write_shared(cluster, in_cta(copy.destination), from, copy.bytes, signalled, made);
      cluster.complete_tx(*signalled.barrier, *signalled.cta, copy.bytes, made.origin);
    }
  });
  return Step::next();
}

// shared -> shared of another CTA of the cluster.
Step exchange(Warp& warp, const Inst& inst) {
  Issue made = issue(warp, "bulk copy");
  Linear copy = operands(warp, inst, made);
  u64 barrier = warp.address(inst.op[3], made.lane);
  Cluster& cluster = warp.cluster;
  cluster.engine.submit([=, &cluster] {
    Signal signalled = signal(cluster, barrier, made);
    SharedPlace source = cluster.shared(copy.source, copy.bytes, 16, made.origin);
    if (cluster.history)
      cluster.history->read_shared(made.actor(signalled.barrier->copy_agent, signalled.barrier->copy_time),
                                   source.cta->rank, source.offset, copy.bytes);
    write_shared(cluster, copy.destination, source.cta->shared(source.offset), copy.bytes, signalled, made);
    cluster.complete_tx(*signalled.barrier, *signalled.cta, copy.bytes, made.origin);
  });
  return Step::next();
}

void add_float(u8* memory, const u8* values, u32 bytes) {
  for (u32 i = 0; i < bytes; i += 4) {
    float value;
    std::memcpy(&value, values + i, 4);
    std::atomic_ref(*reinterpret_cast<float*>(memory + i)).fetch_add(value, std::memory_order_relaxed);
  }
}

// shared -> global: reads its source, later writes (or adds to) its destination.
template <bool adds> Step store(Warp& warp, const Inst& inst) {
  prepare_bulk_agents(warp);
  Issue made = issue(warp, adds ? "bulk reduction" : "bulk store");
  Linear copy = operands(warp, inst, made);
  u64 number = warp.bulk.issue(made.lane, warp.pc());
  check::Time time = warp.bulk.time;
  Cluster& cluster = warp.cluster;
  Warp* issuer = &warp;
  cluster.engine.submit([=, &cluster] {
    SharedPlace source = cluster.shared(copy.source, copy.bytes, 16, made.origin);
    if (cluster.history)
      cluster.history->read_shared(made.actor(issuer->bulk.reader, time), source.cta->rank, source.offset, copy.bytes);
    auto data = std::make_shared<std::vector<u8>>(source.cta->shared(source.offset),
                                                  source.cta->shared(source.offset) + copy.bytes);
    issuer->bulk.finished_reading(number);
    cluster.engine.submit([=, &cluster] {
      check::Actor actor = made.actor(issuer->bulk.writer, time);
      actor.atomic = adds;
      u8* memory = write_global(cluster, copy.destination, copy.bytes, actor, made);
      if constexpr (adds) add_float(memory, data->data(), copy.bytes);
      else std::copy(data->begin(), data->end(), memory);  // perhaps of no bytes
      issuer->bulk.finished_writing(number);
      cluster.counters.copy_bytes += copy.bytes;
    });
  });
  return Step::next();
}

Step commit_group(Warp& warp, const Inst&) {
  warp.bulk.commit(warp.active, warp.bulk.time++);
  return Step::next();
}

template <bool read_only> Step wait_group(Warp& warp, const Inst& inst) {
  u32 allowed = static_cast<u32>(inst.op[0].offset);
  check::Time known = 0;
  if (!warp.bulk.await(warp.active, allowed, read_only, known))
    return warp.wait(Waiting::On::bulk_group, warp.bulk.version, 0, allowed);
  if (warp.cluster.history && known) {
    warp.view.learn(warp.bulk.reader, known, warp.active);
    if (!read_only) warp.view.learn(warp.bulk.writer, known, warp.active);
  }
  return Step::next();
}

Execute bind_load(Binding& binding) {
  binding.inst.field[0] = binding.spelling.has("multicast::cluster");
  return load;
}

const Row rows[] = {
    {"cp.async.bulk.shared::{cta,cluster}.global.mbarrier::complete_tx::bytes[.multicast::cluster][.L2::cache_hint]"
     "   [a], [b], n:u32, [m][multicast::cluster, c:u16][L2::cache_hint, p:b64]",
     bind_load, Unit::memory},
    {"cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes   [a], [b], n:u32, [m]", exchange,
     Unit::memory},
    {"cp.async.bulk.global.shared::cta.bulk_group[.L2::cache_hint]             [a], [b], n:u32[L2::cache_hint, p:b64]",
     store<false>, Unit::memory},
    {"cp.reduce.async.bulk.global.shared::cta.bulk_group[.L2::cache_hint].add.f32  [a], [b], n:u32[L2::cache_hint, "
     "p:b64]",
     store<true>, Unit::memory},
    {"cp.async.bulk.commit_group", commit_group, Unit::control},
    {"cp.async.bulk.wait_group         #n", wait_group<false>, Unit::control},
    {"cp.async.bulk.wait_group.read    #n", wait_group<true>, Unit::control},
};

}  // namespace

std::span<const Row> copy_rows() { return rows; }

}  // namespace sim
