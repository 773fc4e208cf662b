// atom and red in global and shared memory (PTX ISA, "Parallel Synchronization and Communication: atom, red").
#include <algorithm>
#include <concepts>
#include <cstring>

#include "isa/families.h"
#include "isa/lanes.h"
#include "isa/strong.h"
#include "machine/cta.h"
#include "machine/grid_state.h"

namespace sim {
namespace {

enum Field { kOrder, kReturns, kShared };

// A read-modify-write per lane, in lane order: combine(old, operands...).
template <class T, class F> Step modify(Warp& warp, const Inst& inst, F combine) {
  Cluster& cluster = warp.cluster;
  Order order = static_cast<Order>(inst.field[kOrder]);
  const Operand* address = inst.op + inst.field[kReturns];
  bool in_shared = inst.field[kShared];
  if (!in_shared) before_strong_write(warp, *address, order);
  const check::Knowledge* known = cluster.history ? &warp.view.known_to(warp.active) : nullptr;
  std::unique_lock lock(cluster.grid.atomics, std::defer_lock);
  if (!in_shared) lock.lock();
  for (Mask rest = warp.active; rest; rest &= rest - 1) {
    int lane = __builtin_ctz(rest);
    u64 where = warp.address(*address, lane);
    check::Actor actor{warp.view.agent(), warp.view.now(), Mask{1} << lane, false, warp.pc(), known, true};
    u8* memory;
    if (in_shared) {
      SharedPlace place = cluster.shared(where, sizeof(T), sizeof(T), warp.origin());
      cluster.refuse_mbarrier(place, sizeof(T), true, warp.origin());
      memory = place.cta->shared(place.offset);
      if (known) {
        cluster.history->read_shared(actor, place.cta->rank, place.offset, sizeof(T));
        cluster.history->write_shared(actor, place.cta->rank, place.offset, sizeof(T));
      }
    } else {
      memory = cluster.global(where, sizeof(T), sizeof(T), true, warp.origin());
      if (known) cluster.history->write_global(actor, where, sizeof(T));
    }
    T old;
    std::memcpy(&old, memory, sizeof(T));
    T value = combine(old, address + 1, lane);
    std::memcpy(memory, &value, sizeof(T));
    if (inst.field[kReturns]) warp.out<T>(inst.op[0])[lane] = old;
  }
  if (in_shared) return Step::next();
  lock.unlock();
  cluster.grid.touch();
  after_strong_read(warp, *address, order);
  return Step::next();
}

struct Add {  // integers wrap
  float operator()(float a, float b) const { return a + b; }
  template <std::integral T> T operator()(T a, T b) const {
    using Bits = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<Bits>(a) + static_cast<Bits>(b));
  }
};
struct Min { template <class T> T operator()(T a, T b) const { return std::min(a, b); } };
struct Max { template <class T> T operator()(T a, T b) const { return std::max(a, b); } };
struct And { template <class T> T operator()(T a, T b) const { return a & b; } };
struct Or { template <class T> T operator()(T a, T b) const { return a | b; } };
struct Xor { template <class T> T operator()(T a, T b) const { return a ^ b; } };
struct Exchange { template <class T> T operator()(T, T b) const { return b; } };

template <class T, class F> Step binary(Warp& warp, const Inst& inst) {
  return modify<T>(warp, inst, [&](T old, const Operand* operands, int lane) {
    return static_cast<T>(F{}(old, warp.in<T>(operands[0])[lane]));
  });
}

template <class T> Step compare_and_swap(Warp& warp, const Inst& inst) {
  return modify<T>(warp, inst, [&](T old, const Operand* operands, int lane) {
    return old == warp.in<T>(operands[0])[lane] ? warp.in<T>(operands[1])[lane] : old;
  });
}

void read_fields(Binding& binding) {
  Order given = order(binding.spelling);
  binding.inst.field[kOrder] = static_cast<u32>(given == Order::weak ? Order::relaxed : given);
  binding.inst.field[kReturns] = binding.spelling.parts[0] == "atom";
  binding.inst.field[kShared] =
      binding.spelling.has("shared") || binding.spelling.has("shared::cta") || binding.spelling.has("shared::cluster");
}

template <class List, class F> struct Choose;
template <class... T, class F> struct Choose<Types<T...>, F> {
  static Execute bind(Binding& binding) {
    read_fields(binding);
    Execute chosen = nullptr;
    ((detail::answers<T>(binding.spelling.type()) ? void(chosen = &binary<T, F>) : void()), ...);
    if (!chosen) binding.refuse("no body for this type");
    return chosen;
  }
};

Execute bind_cas(Binding& binding) {
  read_fields(binding);
  return binding.spelling.type() == "b64" ? &compare_and_swap<u64> : &compare_and_swap<u32>;
}

using Numbers = Types<u32, i32, u64, float>;
using Words = Types<u32, u64>;

#define SCOPE "[.{cta,cluster,gpu,sys}]"
#define ORDER "[.{relaxed,acquire,release,acq_rel}]"
#define RED "red[.{relaxed,release}]" SCOPE ".{global,shared,shared::cta,shared::cluster}"
#define ATOM "atom" ORDER SCOPE ".{global,shared,shared::cta,shared::cluster}"
const Row rows[] = {
    {RED ".add.{u32,s32,u64,f32}       [a], b", Choose<Numbers, Add>::bind, Unit::memory},
    {RED ".{min}.{u32,s32}             [a], b", Choose<Numbers, Min>::bind, Unit::memory},
    {RED ".{max}.{u32,s32}             [a], b", Choose<Numbers, Max>::bind, Unit::memory},
    {RED ".and.{b32,b64}               [a], b", Choose<Words, And>::bind, Unit::memory},
    {RED ".or.{b32,b64}                [a], b", Choose<Words, Or>::bind, Unit::memory},
    {RED ".xor.{b32,b64}               [a], b", Choose<Words, Xor>::bind, Unit::memory},
    {ATOM ".add.{u32,s32,u64,f32}      d, [a], b", Choose<Numbers, Add>::bind, Unit::memory},
    {ATOM ".min.{u32,s32}              d, [a], b", Choose<Numbers, Min>::bind, Unit::memory},
    {ATOM ".max.{u32,s32}              d, [a], b", Choose<Numbers, Max>::bind, Unit::memory},
    {ATOM ".and.{b32,b64}              d, [a], b", Choose<Words, And>::bind, Unit::memory},
    {ATOM ".or.{b32,b64}               d, [a], b", Choose<Words, Or>::bind, Unit::memory},
    {ATOM ".xor.{b32,b64}              d, [a], b", Choose<Words, Xor>::bind, Unit::memory},
    {ATOM ".exch.{b32,b64}             d, [a], b", Choose<Words, Exchange>::bind, Unit::memory},
    {ATOM ".cas.{b32,b64}              d, [a], b, c", bind_cas, Unit::memory},
};
#undef ATOM
#undef RED
#undef ORDER
#undef SCOPE

}  // namespace

std::span<const Row> atomic_rows() { return rows; }

}  // namespace sim
