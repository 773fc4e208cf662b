// mov and its vector forms, prmt, cvta, mapa (PTX ISA, "Data Movement and Conversion Instructions").
#include "isa/families.h"
#include "isa/lanes.h"
#include "machine/addresses.h"

namespace sim {
namespace {

constexpr auto same = [](auto a) { return a; };

// Element i of a vector stands at bits i * width and up.
template <class Part, int count> Step pack(Warp& warp, const Inst& inst) {
  Part* whole = warp.out<Part>(inst.op[0]);
  const Part* parts[count];
  for (int i = 0; i < count; ++i) parts[i] = warp.in<Part>(inst.op[1 + i]);
  if (warp.active == all_lanes) {
#pragma GCC ivdep
    for (int lane = 0; lane < warp_size; ++lane)
      for (int i = 0; i < count; ++i) whole[lane * count + i] = parts[i][lane];
  } else {
    for (Mask rest = warp.active; rest; rest &= rest - 1)
      for (int lane = __builtin_ctz(rest), i = 0; i < count; ++i) whole[lane * count + i] = parts[i][lane];
  }
  return Step::next();
}
template <class Part, int count> Step unpack(Warp& warp, const Inst& inst) {
  const Part* whole = warp.in<Part>(inst.op[count]);
  Part* parts[count];
  for (int i = 0; i < count; ++i) parts[i] = warp.out<Part>(inst.op[i]);
  if (warp.active == all_lanes) {
#pragma GCC ivdep
    for (int lane = 0; lane < warp_size; ++lane)
      for (int i = 0; i < count; ++i) parts[i][lane] = whole[lane * count + i];
  } else {
    for (Mask rest = warp.active; rest; rest &= rest - 1)
      for (int lane = __builtin_ctz(rest), i = 0; i < count; ++i) parts[i][lane] = whole[lane * count + i];
  }
  return Step::next();
}

template <template <class, int> class Body> Execute by_parts(Binding& binding, u32 whole_bytes, u32 count) {
  if (count == 2 && whole_bytes == 4) return Body<u16, 2>::execute;
  if (count == 2 && whole_bytes == 8) return Body<u32, 2>::execute;
  if (count == 2 && whole_bytes == 16) return Body<u64, 2>::execute;
  if (count == 4 && whole_bytes == 8) return Body<u16, 4>::execute;
  if (count == 4 && whole_bytes == 16) return Body<u32, 4>::execute;
  binding.refuse("a vector of " + std::to_string(count) + " elements; allowed are 2, and 4 for .b64 and .b128");
}
template <class Part, int count> struct Pack { static constexpr Execute execute = &pack<Part, count>; };
template <class Part, int count> struct Unpack { static constexpr Execute execute = &unpack<Part, count>; };

Execute bind_move(Binding& binding) {
  const u32 results = binding.group[0], sources = binding.group[1];
  if (results > 1 && sources > 1) binding.refuse("a vector on both sides; one side must be a single register");
  const bool vector = results > 1 || sources > 1;
  if (vector && !binding.spelling.type().starts_with('b')) binding.refuse("vectors are moved as .b32, .b64 or .b128");
  const u32 bytes = *type_bytes(binding.spelling.type()), parts = results > 1 ? results : sources;
  const auto vector_part = binding.op.subspan(results > 1 ? 0 : 1, parts);
  for (const Operand& part : vector_part)
    if (vector && !part.sink && part.bytes != bytes / parts)
      binding.refuse("an element of " + std::to_string(8 * part.bytes) + " bits where a vector of " +
                     std::to_string(parts) + " elements has " + std::to_string(8 * bytes / parts));
  if (results > 1) return by_parts<Unpack>(binding, bytes, results);
  if (sources > 1) return by_parts<Pack>(binding, bytes, sources);
  switch (bytes) {
    case 2: return lane<u16>(same);
    case 4: return lane<u32>(same);
    case 8: return lane<u64>(same);
    default: return lane<u128>(same);
  }
}

Step move_predicate(Warp& warp, const Inst& inst) {
  warp.write_predicate(inst.op[0], warp.predicate(inst.op[1]));
  return Step::next();
}

// prmt: the eight bytes of b:a; a selector of four bits names one, its top bit asks for copies of that byte's sign.
constexpr auto permute = [](u32 a, u32 b, u32 selectors) {
  const u64 bytes = u64{b} << 32 | a;
  u32 result = 0;
  for (u32 i = 0; i < 4; ++i) {
    const u32 selector = selectors >> (4 * i) & 0xF, byte = static_cast<u32>(bytes >> (8 * (selector & 7))) & 0xFF;
    const u32 sign = byte & 0x80 ? 0xFF : 0;
    result |= (selector & 8 ? sign : byte) << (8 * i);
  }
  return result;
};
// The special modes are such selectors, by the low two bits of c.
template <u32 for_0, u32 for_1, u32 for_2, u32 for_3>
constexpr Execute permute_mode = lane<u32, u32, u32>([](u32 a, u32 b, u32 c) {
  constexpr u32 selectors[] = {for_0, for_1, for_2, for_3};
  return permute(a, b, selectors[c & 3]);
});

// Addresses outside the window come out as what no space holds, so that their use is reported.
template <u64 window> constexpr Execute to_generic = lane<u64>([](u64 a) { return a + window; });
template <u64 window> constexpr Execute from_generic = lane<u64>([](u64 a) { return a - window; });

const Row rows[] = {
    {"mov.{b16,b32,b64,b128,u16,u32,u64,s16,s32,s64,f32,f64} d|{d:part}, a|{a:part}", Bind{bind_move}},
    {"mov.pred d, a", move_predicate},
    {"prmt.b32 d, a, b, c", lane<u32, u32, u32>(permute), Unit::alu},
    {"prmt.b32.f4e d, a, b, c", permute_mode<0x3210, 0x4321, 0x5432, 0x6543>, Unit::alu},
    {"prmt.b32.b4e d, a, b, c", permute_mode<0x5670, 0x6701, 0x7012, 0x0123>, Unit::alu},
    {"prmt.b32.rc8 d, a, b, c", permute_mode<0x0000, 0x1111, 0x2222, 0x3333>, Unit::alu},
    {"prmt.b32.ecl d, a, b, c", permute_mode<0x3210, 0x3211, 0x3222, 0x3333>, Unit::alu},
    {"prmt.b32.ecr d, a, b, c", permute_mode<0x0000, 0x1110, 0x2210, 0x3210>, Unit::alu},
    {"prmt.b32.rc16 d, a, b, c", permute_mode<0x1010, 0x3232, 0x1010, 0x3232>, Unit::alu},
    {"cvta.{shared,shared::cta,shared::cluster}.u64 d, a", to_generic<shared_window>, Unit::alu},
    {"cvta.to.{shared,shared::cta,shared::cluster}.u64 d, a", from_generic<shared_window>, Unit::alu},
    {"cvta.param.u64 d, a", to_generic<parameter_window>, Unit::alu},
    {"cvta.to.param.u64 d, a", from_generic<parameter_window>, Unit::alu},
    {"cvta[.to].global.u64 d, a", lane<u64>(same)},
    {"mapa.shared::cluster.u32 d, a, b:u32", lane<u32, u32>([](u32 a, u32 b) { return map_to_rank(a, b); }), Unit::alu},
    {"mapa.shared::cluster.u64 d, a, b:u32",
     lane<u64, u32>([](u64 a, u32 b) { return u64{map_to_rank(static_cast<u32>(a), b)}; }), Unit::alu},
    {"mapa.u64 d, a, b:u32",
     lane<u64, u32>([](u64 a, u32 b) { return shared_window + map_to_rank(shared_address(a), b); }), Unit::alu},
};

}  // namespace

std::span<const Row> move_rows() { return rows; }

}  // namespace sim
