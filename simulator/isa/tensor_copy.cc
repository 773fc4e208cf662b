// cp.async.bulk.tensor in tile mode (PTX ISA, "Data Movement: Tensor copy instructions").
#include <algorithm>
#include <cstring>

#include "isa/bulk.h"
#include "isa/families.h"
#include "machine/addresses.h"
#include "machine/tensor_map.h"

namespace sim {
namespace {

enum Field { kRank, kMulticast, kPair };

struct Box {
  TensorMap map;
  std::array<i32, 5> at;
  AddressXor swizzle;
};

// The tensor map lies in the parameter block or in global memory.
Box box(Warp& warp, const Inst& inst, u32 first, const Issue& made) {
  Cluster& cluster = warp.cluster;
  u64 address = warp.address(inst.op[first], made.lane);
  const u8* bytes;
  if (is_parameter_window(address)) {
    const std::vector<u8>& block = cluster.grid.launch.parameters;
    u64 offset = parameter_offset(address);
    if (offset + sizeof(TensorMap) > block.size())
      cluster.fault(check::Kind::out_of_bounds, "tensor map beyond the kernel's parameters",
                    "offset " + std::to_string(offset), made.origin);
    bytes = block.data() + offset;
  } else {
    bytes = cluster.global(address, sizeof(TensorMap), 64, false, made.origin);
  }
  std::string why;
  std::optional<TensorMap> map = decode(bytes, &why);
  if (!map) cluster.fault(check::Kind::undefined, "not a tensor map: " + why, "address " + hex(address), made.origin);
  if (map->rank != inst.field[kRank])
    cluster.fault(check::Kind::undefined,
                  "a tensor map of " + std::to_string(map->rank) + " dimensions in a copy of " +
                      std::to_string(inst.field[kRank]),
                  "address " + hex(address), made.origin);
  Box result{*map, {}, address_xor(static_cast<Swizzle>(map->swizzle))};
  for (u32 i = 0; i < map->rank; ++i) result.at[i] = static_cast<i32>(warp.value(inst.op[first + 1 + i], made.lane));
  return result;
}

u32 shared_alignment(const TensorMap& map) { return static_cast<Swizzle>(map.swizzle) == Swizzle::none ? 16 : 128; }

// Neighbouring pieces of a box that are contiguous in global memory are checked as one run.
template <class F> void for_each_run(const std::vector<BoxPiece>& pieces, F visit) {
  for (std::size_t i = 0; i < pieces.size();) {
    std::size_t end = i + 1;
    u64 bytes = pieces[i].bytes;
    while (end < pieces.size() && pieces[i].address && pieces[end].address == pieces[i].address + bytes)
      bytes += pieces[end++].bytes;
    if (pieces[i].address) visit(pieces[i].address, bytes);
    i = end;
  }
}

void load_into(Cluster& cluster, const Box& from, const std::vector<BoxPiece>& pieces, u64 destination,
               const Signal& signalled, const Issue& made) {
  u32 bytes = box_bytes(from.map);
  SharedPlace place = cluster.shared(destination, bytes, shared_alignment(from.map), made.origin);
  cluster.refuse_mbarrier(place, bytes, true, made.origin);
  check::Actor actor = made.actor(signalled.barrier->copy_agent, signalled.barrier->copy_time);
  for_each_run(pieces, [&](u64 address, u64 run) { read_global(cluster, address, run, actor, made); });
  if (cluster.history) cluster.history->write_shared(actor, place.cta->rank, place.offset, bytes);
  for (const BoxPiece& piece : pieces) {
    u8* to = place.cta->shared(from.swizzle(place.offset + piece.shared));
    if (piece.address) std::memcpy(to, reinterpret_cast<const u8*>(piece.address), piece.bytes);
    else std::memset(to, 0, piece.bytes);
  }
  cluster.counters.copy_bytes += bytes;
  cluster.complete_tx(*signalled.barrier, *signalled.cta, bytes, made.origin);
}

// Into this CTA, or with multicast to the same offset in each CTA of a mask. The signal goes to the mbarrier at the
// same offset of the receiving CTA; with cta_group::2 to that one of its pair that the mbarrier's address names.
Step load(Warp& warp, const Inst& inst) {
  Issue made = issue(warp, "tensor copy");
  u64 destination = warp.address(inst.op[0], made.lane);
  Box from = box(warp, inst, 1, made);
  const Operand* rest = inst.op + 2 + inst.field[kRank];
  u64 barrier = warp.address(rest[0], made.lane);
  bool multicast = inst.field[kMulticast], pair = inst.field[kPair];
  u32 mask = multicast ? static_cast<u32>(warp.value(rest[1], made.lane)) : 0;
  Cluster& cluster = warp.cluster;
  if (multicast) require_ctas(cluster, mask, made);
  cluster.engine.submit([=, &cluster] {
    std::vector<BoxPiece> pieces;
    walk(from.map, from.at.data(), pieces);
    if (!multicast) return load_into(cluster, from, pieces, destination, signal(cluster, barrier, made), made);
    for (u32 rank = 0; rank < cluster.ctas.size(); ++rank) {
      if (!(mask >> rank & 1)) continue;
      u64 receiver = pair ? (rank & ~1u) | (barrier >> 24 & 1) : rank;
      Signal signalled = signal(cluster, (barrier & 0xFFFFFF) | receiver << 24, made);
      load_into(cluster, from, pieces, (destination & 0xFFFFFF) | u64{rank} << 24, signalled, made);
    }
  });
  return Step::next();
}

Step store(Warp& warp, const Inst& inst) {
  prepare_bulk_agents(warp);
  Issue made = issue(warp, "tensor store");
  Box to = box(warp, inst, 0, made);
  u64 source = warp.address(inst.op[1 + inst.field[kRank]], made.lane);
  u64 number = warp.bulk.issue(made.lane, warp.pc());
  check::Time time = warp.bulk.time;
  Cluster& cluster = warp.cluster;
  Warp* issuer = &warp;
  cluster.engine.submit([=, &cluster] {
    u32 bytes = box_bytes(to.map);
    SharedPlace place = cluster.shared(source, bytes, shared_alignment(to.map), made.origin);
    if (cluster.history)
      cluster.history->read_shared(made.actor(issuer->bulk.reader, time), place.cta->rank, place.offset, bytes);
    auto pieces = std::make_shared<std::vector<BoxPiece>>(walk(to.map, to.at.data()));
    auto data = std::make_shared<std::vector<u8>>(bytes);
    for (const BoxPiece& piece : *pieces)
      std::memcpy(data->data() + piece.shared, place.cta->shared(to.swizzle(place.offset + piece.shared)), piece.bytes);
    issuer->bulk.finished_reading(number);
    cluster.engine.submit([=, &cluster] {
      check::Actor actor = made.actor(issuer->bulk.writer, time);
      for_each_run(*pieces, [&](u64 address, u64 run) { write_global(cluster, address, run, actor, made); });
      for (const BoxPiece& piece : *pieces)
        if (piece.address) std::memcpy(reinterpret_cast<u8*>(piece.address), data->data() + piece.shared, piece.bytes);
      issuer->bulk.finished_writing(number);
      cluster.counters.copy_bytes += bytes;
    });
  });
  return Step::next();
}

template <Execute body> Execute bind(Binding& binding) {
  const Spelling& spelling = binding.spelling;
  u32 rank = static_cast<u32>(spelling.parts[4][0] - '0');
  u32 coordinates = binding.group[body == Execute{load} ? 1 : 0] - 1;
  if (coordinates != rank)
    binding.refuse(std::to_string(coordinates) + " coordinates for a copy of " + std::to_string(rank) + " dimensions");
  binding.inst.field[kRank] = rank;
  binding.inst.field[kMulticast] = spelling.has("multicast::cluster");
  binding.inst.field[kPair] = spelling.has("cta_group::2");
  return body;
}

// The DSL writes .cta_group after .L2::cache_hint, the manual before it.
#define LOAD                                                                                                      \
  "cp.async.bulk.tensor.{1d,2d,3d,4d,5d}.shared::cluster.global[.tile].mbarrier::complete_tx::bytes[.multicast::" \
  "cluster]"
#define LOAD_OPERANDS "   [a], [t, {c}], [m][multicast::cluster, k:u16][L2::cache_hint, p:b64]"
const Row rows[] = {
    {"cp.async.bulk.tensor.{1d,2d,3d,4d,5d}.shared::cta.global[.tile].mbarrier::complete_tx::bytes[.L2::cache_"
     "hint]" LOAD_OPERANDS,
     bind<load>, Unit::memory},
    {LOAD "[.L2::cache_hint][.cta_group::{1,2}]" LOAD_OPERANDS, bind<load>, Unit::memory},
    {LOAD ".cta_group::{1,2}.L2::cache_hint" LOAD_OPERANDS, bind<load>, Unit::memory},
    {"cp.async.bulk.tensor.{1d,2d,3d,4d,5d}.global.shared::cta[.tile].bulk_group[.L2::cache_hint]   [t, {c}], "
     "[a][L2::cache_hint, p:b64]",
     bind<store>, Unit::memory},
};
#undef LOAD
#undef LOAD_OPERANDS

}  // namespace

std::span<const Row> tensor_copy_rows() { return rows; }

}  // namespace sim
