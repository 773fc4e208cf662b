// Lanes of one warp talking to each other: elect, shfl, vote, match, redux, bar.warp (PTX ISA, "Parallel
// Synchronization").
#include <algorithm>

#include "isa/families.h"
#include "machine/cluster.h"
#include "machine/warp.h"

namespace sim {
namespace {

// The member mask must name the executing lanes. That those which execute together name the same ones is ours: groups
// of lanes that meet at one instruction with masks of their own are not modelled.
Mask members(Warp& warp, const Operand& operand) {
  const u32* masks = warp.in<u32>(operand);
  Mask member = masks[warp.first_lane()];
  bool same = true;
  for (Mask rest = warp.active; rest; rest &= rest - 1) same &= masks[__builtin_ctz(rest)] == member;
  if (!same || warp.active & ~member)
    warp.cluster.fault(check::Kind::undefined,
                       "the member mask " + std::string(same ? "lacks lanes that execute" : "differs between lanes"),
                       "member mask " + hex(member) + ", executing lanes " + hex(warp.active), warp.origin());
  return member;
}

Step activemask(Warp& warp, const Inst& inst) {
  for (Mask rest = warp.active; rest; rest &= rest - 1) warp.out<u32>(inst.op[0])[__builtin_ctz(rest)] = warp.active;
  return Step::next();
}

// The leader is any lane; the lowest, so that runs repeat.
Step elect(Warp& warp, const Inst& inst) {
  Mask member = members(warp, inst.op[2]);
  if (!warp.gathered(member)) return warp.wait_for_lanes();
  u32 leader = static_cast<u32>(__builtin_ctz(member & warp.active));
  for (Mask rest = warp.active; rest; rest &= rest - 1) warp.out<u32>(inst.op[0])[__builtin_ctz(rest)] = leader;
  warp.write_predicate(inst.op[1], Mask{1} << leader);
  return Step::next();
}

enum class Shuffle : u32 { up, down, bfly, idx };

template <Shuffle mode> Step shuffle(Warp& warp, const Inst& inst) {
  if (!warp.gathered(members(warp, inst.op[5]))) return warp.wait_for_lanes();
  u32 source[warp_size];
  std::copy_n(warp.in<u32>(inst.op[2]), warp_size, source);
  const u32 *b = warp.in<u32>(inst.op[3]), *c = warp.in<u32>(inst.op[4]);
  u32* out = warp.out<u32>(inst.op[0]);
  Mask in_range = 0;
  for (Mask rest = warp.active; rest; rest &= rest - 1) {
    u32 lane = static_cast<u32>(__builtin_ctz(rest));
    u32 distance = b[lane] & 31, clamp = c[lane] & 31, segment = c[lane] >> 8 & 31;
    u32 highest = (lane & segment) | (clamp & ~segment), lowest = lane & segment;
    i32 from = 0;
    bool valid = false;
    switch (mode) {
      case Shuffle::up: from = static_cast<i32>(lane - distance), valid = from >= static_cast<i32>(highest); break;
      case Shuffle::down: from = static_cast<i32>(lane + distance), valid = from <= static_cast<i32>(highest); break;
      case Shuffle::bfly: from = static_cast<i32>(lane ^ distance), valid = from <= static_cast<i32>(highest); break;
      case Shuffle::idx:
        from = static_cast<i32>(lowest | (distance & ~segment)), valid = from <= static_cast<i32>(highest);
        break;
    }
    if (!valid) from = static_cast<i32>(lane);
    out[lane] = source[from & 31];
    in_range |= Mask{valid} << lane;
  }
  warp.write_predicate(inst.op[1], in_range);
  return Step::next();
}

Step ballot(Warp& warp, const Inst& inst) {
  Mask member = members(warp, inst.op[2]);
  if (!warp.gathered(member)) return warp.wait_for_lanes();
  Mask value = warp.predicate(inst.op[1]) & member & warp.active;
  for (Mask rest = warp.active; rest; rest &= rest - 1) warp.out<u32>(inst.op[0])[__builtin_ctz(rest)] = value;
  return Step::next();
}

enum class Vote : u32 { all, any, uni };

template <Vote mode> Step vote(Warp& warp, const Inst& inst) {
  Mask member = members(warp, inst.op[2]);
  if (!warp.gathered(member)) return warp.wait_for_lanes();
  Mask voters = member & warp.active, yes = warp.predicate(inst.op[1]) & voters;
  bool result = mode == Vote::any ? yes != 0 : mode == Vote::all ? yes == voters : yes == 0 || yes == voters;
  warp.write_predicate(inst.op[0], result ? all_lanes : 0);
  return Step::next();
}

template <class T, class F> Step reduce(Warp& warp, const Inst& inst, F combine) {
  Mask member = members(warp, inst.op[2]);
  if (!warp.gathered(member)) return warp.wait_for_lanes();
  const T* in = warp.in<T>(inst.op[1]);
  T value = in[warp.first_lane()];
  for (Mask rest = warp.active & (warp.active - 1); rest; rest &= rest - 1)
    value = combine(value, in[__builtin_ctz(rest)]);
  for (Mask rest = warp.active; rest; rest &= rest - 1) warp.out<T>(inst.op[0])[__builtin_ctz(rest)] = value;
  return Step::next();
}

Step redux_add(Warp& warp, const Inst& inst) {
  return reduce<u32>(warp, inst, [](u32 a, u32 b) { return a + b; });
}
template <class T> Step redux_min(Warp& warp, const Inst& inst) {
  return reduce<T>(warp, inst, [](T a, T b) { return std::min(a, b); });
}
template <class T> Step redux_max(Warp& warp, const Inst& inst) {
  return reduce<T>(warp, inst, [](T a, T b) { return std::max(a, b); });
}
Step redux_and(Warp& warp, const Inst& inst) {
  return reduce<u32>(warp, inst, [](u32 a, u32 b) { return a & b; });
}
Step redux_or(Warp& warp, const Inst& inst) {
  return reduce<u32>(warp, inst, [](u32 a, u32 b) { return a | b; });
}
Step redux_xor(Warp& warp, const Inst& inst) {
  return reduce<u32>(warp, inst, [](u32 a, u32 b) { return a ^ b; });
}

// Lanes meet, and what one knew all know.
Step bar_warp(Warp& warp, const Inst& inst) {
  if (!warp.gathered(members(warp, inst.op[0]))) return warp.wait_for_lanes();
  warp.view.meet(warp.active);
  return Step::next();
}

const Row rows[] = {
    {"activemask.b32                      d", activemask, Unit::alu},
    {"elect.sync                          d:b32|d2:pred, m:b32", elect, Unit::control},
    {"shfl.sync.up.b32                    d[|d2:pred], a, b:b32, c:b32, m:b32", shuffle<Shuffle::up>, Unit::memory},
    {"shfl.sync.down.b32                  d[|d2:pred], a, b:b32, c:b32, m:b32", shuffle<Shuffle::down>, Unit::memory},
    {"shfl.sync.bfly.b32                  d[|d2:pred], a, b:b32, c:b32, m:b32", shuffle<Shuffle::bfly>, Unit::memory},
    {"shfl.sync.idx.b32                   d[|d2:pred], a, b:b32, c:b32, m:b32", shuffle<Shuffle::idx>, Unit::memory},
    {"vote.sync.ballot.b32                d, a!:pred, m:b32", ballot, Unit::alu},
    {"vote.sync.all.pred                  d, a!:pred, m:b32", vote<Vote::all>, Unit::alu},
    {"vote.sync.any.pred                  d, a!:pred, m:b32", vote<Vote::any>, Unit::alu},
    {"vote.sync.uni.pred                  d, a!:pred, m:b32", vote<Vote::uni>, Unit::alu},
    {"redux.sync.add.{u32,s32}            d, a, m:b32", redux_add, Unit::alu},
    {"redux.sync.min.u32                  d, a, m:b32", redux_min<u32>, Unit::alu},
    {"redux.sync.min.s32                  d, a, m:b32", redux_min<i32>, Unit::alu},
    {"redux.sync.max.u32                  d, a, m:b32", redux_max<u32>, Unit::alu},
    {"redux.sync.max.s32                  d, a, m:b32", redux_max<i32>, Unit::alu},
    {"redux.sync.and.b32                  d, a, m:b32", redux_and, Unit::alu},
    {"redux.sync.or.b32                   d, a, m:b32", redux_or, Unit::alu},
    {"redux.sync.xor.b32                  d, a, m:b32", redux_xor, Unit::alu},
    {"bar.warp.sync                       m:b32", bar_warp, Unit::control},
};

}  // namespace

std::span<const Row> warp_rows() { return rows; }

}  // namespace sim
