// ld, st, stmatrix (PTX ISA, "Data Movement and Conversion Instructions") in parameter, shared and global memory.
#include <algorithm>
#include <cstring>

#include "isa/families.h"
#include "isa/strong.h"
#include "machine/cta.h"
#include "machine/grid_state.h"

namespace sim {
namespace {

// field[0]: bytes of an element; field[1]: elements; field[2]: sign-extends; field[3]: Order.
enum Field { kBytes, kCount, kSigned, kOrder };

template <Execute body> Execute bind(Binding& binding) {
  const Spelling& spelling = binding.spelling;
  std::string_view type = spelling.type();
  Inst& inst = binding.inst;
  inst.field[kBytes] = *type_bytes(type);
  inst.field[kSigned] = type.front() == 's';
  inst.field[kCount] = spelling.has("v8") ? 8 : spelling.has("v4") ? 4 : spelling.has("v2") ? 2 : 1;
  inst.field[kOrder] = static_cast<u32>(order(spelling));
  if (inst.ops != inst.field[kCount] + 1)
    binding.refuse("a vector of " + std::to_string(inst.ops - 1) + " registers does not fit the instruction");
  return body;
}

void write_lane(Warp& warp, const Operand& operand, int lane, const u8* from, u32 bytes, bool sign) {
  u8* to = warp.out<u8>(operand) + static_cast<u32>(lane) * operand.bytes;
  std::memcpy(to, from, bytes);
  if (operand.bytes > bytes) std::memset(to + bytes, sign && from[bytes - 1] & 0x80 ? 0xFF : 0, operand.bytes - bytes);
}

const u8* read_lane(const Warp& warp, const Operand& operand, int lane) {
  return warp.in<u8>(operand) + static_cast<u32>(lane) * operand.bytes;
}

Step load_parameter(Warp& warp, const Inst& inst) {
  const std::vector<u8>& block = warp.cluster.grid.launch.parameters;
  u32 bytes = inst.field[kBytes], count = inst.field[kCount];
  for (Mask rest = warp.active; rest; rest &= rest - 1) {
    int lane = __builtin_ctz(rest);
    u64 offset = warp.address(inst.op[count], lane);
    if (offset + u64{bytes} * count > block.size() || offset > block.size())
      warp.cluster.fault(check::Kind::out_of_bounds, "ld.param beyond the kernel's parameters",
                         "offset " + std::to_string(offset) + ", " + std::to_string(bytes * count) + " bytes",
                         warp.origin(), "the kernel takes " + std::to_string(block.size()) + " bytes");
    for (u32 i = 0; i < count; ++i)
      write_lane(warp, inst.op[i], lane, block.data() + offset + i * bytes, bytes, inst.field[kSigned]);
  }
  return Step::next();
}

// Wavefronts of one access: lanes that want different words of one of the 32 banks go one after another; wide accesses
// are served in halves or quarters of the warp.
void count_banks(Counters& counters, const u32* offsets, Mask active, u32 bytes) {
  u32 group = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  for (u32 first = 0; first < warp_size; first += group) {
    u32 words[32][8], used[32] = {}, deepest = 0;
    for (u32 lane = first; lane < first + group; ++lane) {
      if (!(active >> lane & 1)) continue;
      for (u32 word = offsets[lane] / 4; word < (offsets[lane] + bytes + 3) / 4; ++word) {
        u32 bank = word % 32, depth = std::min(used[bank], 8u);
        if (std::find(words[bank], words[bank] + depth, word) != words[bank] + depth) continue;
        if (depth < 8) words[bank][depth] = word;
        deepest = std::max(deepest, ++used[bank]);
      }
    }
    counters.shared_wavefronts += deepest;
    counters.shared_wavefronts_ideal += deepest ? 1 : 0;
  }
}

template <bool store> Step shared(Warp& warp, const Inst& inst) {
  Cluster& cluster = warp.cluster;
  u32 bytes = inst.field[kBytes], count = inst.field[kCount], total = bytes * count;
  const Operand* data = store ? inst.op + 1 : inst.op;
  const Operand& address = store ? inst.op[0] : inst.op[count];
  u32 offsets[warp_size];
  const check::Knowledge* known = cluster.history ? &warp.view.known_to(warp.active) : nullptr;
  bool strong = inst.field[kOrder] != static_cast<u32>(Order::weak);
  for (Mask rest = warp.active; rest; rest &= rest - 1) {
    int lane = __builtin_ctz(rest);
    SharedPlace place = cluster.shared(warp.address(address, lane), total, total, warp.origin());
    offsets[lane] = place.offset;
    u8* memory = place.cta->shared(place.offset);
    cluster.refuse_mbarrier(place, total, store, warp.origin());
    if (known) {
      check::Actor actor{warp.view.agent(), warp.view.now(), Mask{1} << lane, false, warp.pc(), known, strong};
      if (store) cluster.history->write_shared(actor, place.cta->rank, place.offset, total);
      else cluster.history->read_shared(actor, place.cta->rank, place.offset, total);
    }
    for (u32 i = 0; i < count; ++i) {
      if (store) std::memcpy(memory + i * bytes, read_lane(warp, data[i], lane), bytes);
      else write_lane(warp, data[i], lane, memory + i * bytes, bytes, inst.field[kSigned]);
    }
  }
  u64 moved = u64{total} * lane_count(warp.active);
  (store ? cluster.counters.shared_write_bytes : cluster.counters.shared_read_bytes) += moved;
  count_banks(cluster.counters, offsets, warp.active, total);
  return Step::next();
}

template <bool store> Step global(Warp& warp, const Inst& inst) {
  Cluster& cluster = warp.cluster;
  u32 bytes = inst.field[kBytes], count = inst.field[kCount], total = bytes * count;
  const Operand* data = store ? inst.op + 1 : inst.op;
  const Operand& address = store ? inst.op[0] : inst.op[count];
  Order order = static_cast<Order>(inst.field[kOrder]);
  if (!store && order != Order::weak)
    if (std::optional<u64> seen = polls(warp, warp.address(address, warp.first_lane()))) {
      Step waits = warp.wait(Waiting::On::grid, cluster.grid.version);
      warp.fragment().waiting.seen = *seen;  // another thread may have written since
      return waits;
    }
  if (store && order != Order::weak) before_strong_write(warp, address, order);
  const check::Knowledge* known = cluster.history ? &warp.view.known_to(warp.active) : nullptr;
  for (Mask rest = warp.active; rest; rest &= rest - 1) {
    int lane = __builtin_ctz(rest);
    u8* memory = cluster.global(warp.address(address, lane), total, total, store, warp.origin());
    if (known) {
      check::Actor actor{warp.view.agent(), warp.view.now(), Mask{1} << lane,     false,
                         warp.pc(),         known,           order != Order::weak};
      if (store) cluster.history->write_global(actor, reinterpret_cast<u64>(memory), total);
      else cluster.history->read_global(actor, reinterpret_cast<u64>(memory), total);
    }
    for (u32 i = 0; i < count; ++i) {
      if (store) std::memcpy(memory + i * bytes, read_lane(warp, data[i], lane), bytes);
      else write_lane(warp, data[i], lane, memory + i * bytes, bytes, inst.field[kSigned]);
    }
  }
  u64 moved = u64{total} * lane_count(warp.active);
  (store ? cluster.counters.global_write_bytes : cluster.counters.global_read_bytes) += moved;
  if (order != Order::weak) {
    if (store) cluster.grid.touch();
    else after_strong_read(warp, address, order);
  }
  return Step::next();
}

// stmatrix: 8x8 matrices of 16-bit elements; lane l holds elements (l/4, 2*(l%4)) and the next of each; row i of matrix
// j goes to the address of lane 8j + i. Transposed: the same registers are columns.
Execute bind_store_matrix(Binding& binding);

Step store_matrix(Warp& warp, const Inst& inst) {
  if (!warp.gathered(all_lanes)) return warp.wait_for_lanes();
  Cluster& cluster = warp.cluster;
  u32 matrices = inst.field[0];
  const check::Knowledge* known = cluster.history ? &warp.view.known_to(warp.active) : nullptr;
  for (u32 matrix = 0; matrix < matrices; ++matrix) {
    const u32* in = warp.in<u32>(inst.op[1 + matrix]);
    u32 offsets[warp_size] = {};
    for (u32 row = 0; row < 8; ++row) {
      int lane = static_cast<int>(8 * matrix + row);
      SharedPlace place = cluster.shared(warp.address(inst.op[0], lane), 16, 16, warp.origin());
      offsets[row] = place.offset;
      cluster.refuse_mbarrier(place, 16, true, warp.origin());
      if (known)
        cluster.history->write_shared({warp.view.agent(), warp.view.now(), all_lanes, false, warp.pc(), known, false},
                                      place.cta->rank, place.offset, 16);
      u16 elements[8];
      for (u32 column = 0; column < 8; ++column) {
        u32 r = inst.field[1] ? column : row, c = inst.field[1] ? row : column;
        elements[column] = static_cast<u16>(in[r * 4 + c / 2] >> (c % 2 * 16));
      }
      std::memcpy(place.cta->shared(place.offset), elements, 16);
    }
    count_banks(cluster.counters, offsets, 0xFF, 16);
    cluster.counters.shared_write_bytes += 128;
  }
  return Step::next();
}

Execute bind_store_matrix(Binding& binding) {
  const Spelling& spelling = binding.spelling;
  binding.inst.field[0] = spelling.has("x4") ? 4 : spelling.has("x2") ? 2 : 1;
  binding.inst.field[1] = spelling.has("trans");
  if (binding.group[1] != binding.inst.field[0])
    binding.refuse("stmatrix with " + std::to_string(binding.group[1]) + " registers");
  return store_matrix;
}

#define TYPES "{b8,u8,s8,b16,u16,s16,b32,u32,s32,f32,b64,u64,s64,f64,b128}"
const Row rows[] = {
    {"ld.param[.{v2,v4}]." TYPES "                                                 d+|{d+}, [a]", bind<load_parameter>,
     Unit::memory},
    {"ld[.{weak,volatile}].shared[::{cta,cluster}][.{v2,v4}]." TYPES "             d+|{d+}, [a]", bind<shared<false>>,
     Unit::memory},
    {"st[.{weak,volatile}].shared[::{cta,cluster}][.{v2,v4}]." TYPES "             [a], b+|{b+}", bind<shared<true>>,
     Unit::memory},
    {"ld[.{weak,volatile}].global[.nc][.L1::{evict_normal,evict_unchanged,evict_first,evict_last,no_allocate}][.{v2,v4,"
     "v8}]." TYPES " d+|{d+}, [a]",
     bind<global<false>>, Unit::memory},
    {"st[.{weak,volatile}].global[.L1::{evict_normal,evict_unchanged,evict_first,evict_last,no_allocate}][.{v2,v4,v8}]"
     "." TYPES " [a], b+|{b+}",
     bind<global<true>>, Unit::memory},
    {"ld.{relaxed,acquire}.{cta,cluster,gpu,sys}.global.{b32,u32,s32,f32,b64,u64,s64,f64}     d+|{d+}, [a]",
     bind<global<false>>, Unit::memory},
    {"ld.global.{relaxed,acquire}.{cta,cluster,gpu,sys}.{b32,u32,s32,f32,b64,u64,s64,f64}     d+|{d+}, [a]",
     bind<global<false>>, Unit::memory},
    {"st.{relaxed,release}.{cta,cluster,gpu,sys}.global.{b32,u32,s32,f32,b64,u64,s64,f64}     [a], b+|{b+}",
     bind<global<true>>, Unit::memory},
    {"st.global.{relaxed,release}.{cta,cluster,gpu,sys}.{b32,u32,s32,f32,b64,u64,s64,f64}     [a], b+|{b+}",
     bind<global<true>>, Unit::memory},
    {"stmatrix.sync.aligned.m8n8.{x1,x2,x4}[.trans].shared[::cta].b16              [a], b:b32|{b:b32}",
     bind_store_matrix, Unit::memory},
};
#undef TYPES

}  // namespace

std::span<const Row> memory_rows() { return rows; }

}  // namespace sim
