// Matrix and instruction descriptors (PTX ISA, tcgen05 "Shared Memory Descriptor" and "Instruction Descriptor", wgmma
// "Matrix Descriptor Format").
#include "machine/descriptor.h"

#include <cassert>
#include <cstdio>
#include <cstring>
#include <span>

#include "machine/tensor_map.h"

namespace sim {
namespace {

// Bits of a descriptor that have one modelled value.
struct Field {
  const char* name;
  u32 first, count;
  u64 value;
};
constexpr Field fixed_sm100[] = {
    {"reserved", 14, 2, 0},           {"reserved", 30, 2, 0},
    {"constant 0b001", 46, 3, 1},     {"matrix base offset", 49, 3, 0},
    {"leading dimension stride mode", 52, 1, 0},
    {"constant 0", 53, 8, 0},
};
constexpr Field fixed_sm90[] = {
    {"reserved", 14, 2, 0},           {"reserved", 30, 2, 0},   {"reserved", 46, 3, 0},
    {"matrix base offset", 49, 3, 0}, {"reserved", 52, 10, 0},
};
constexpr Field fixed_instruction[] = {
    {"sparsity selector", 0, 2, 0}, {"sparsity", 2, 1, 0},  {"saturate", 3, 1, 0},  {"type of D (1 is F32)", 4, 2, 1},
    {"reserved", 6, 1, 0},          {"reserved", 23, 1, 0}, {"reserved", 29, 1, 0}, {"maximum shift", 30, 2, 0},
};

u64 bits(u64 value, u32 first, u32 count) { return value >> first & ((u64{1} << count) - 1); }

[[noreturn]] void refuse(const char* what, u64 value, const std::string& why) {
  char hex[24];
  std::snprintf(hex, sizeof hex, "0x%llx", static_cast<unsigned long long>(value));
  throw Error(std::string(what) + " " + hex + ": " + why);
}

void check_fixed(const char* what, u64 value, std::span<const Field> fields) {
  for (const Field& field : fields) {
    const u64 found = bits(value, field.first, field.count);
    if (found != field.value)
      refuse(what, value, std::string(field.name) + ", bits " + std::to_string(field.first) + " to " +
                              std::to_string(field.first + field.count - 1) + ", is " + std::to_string(found) +
                              ": only " + std::to_string(field.value) + " is modelled");
  }
}

// A canonical layout in bytes: eight rows (K-major) or eight k (MN-major), `line` bytes apart, make a core matrix or
// swizzle atom.
struct Layout {
  u32 start, leading, stride;  // leading and stride dimension byte offsets
  u32 line;                    // bytes of a swizzle atom's line: 16, 32, 64, 128
  AddressXor swizzle;
};

Layout layout(u64 descriptor, Swizzle swizzle) {
  const auto decoded = [descriptor](u32 first) { return static_cast<u32>(bits(descriptor, first, 14)) << 4; };
  const u32 line = swizzle == Swizzle::b128 ? 128 : swizzle == Swizzle::b64 ? 64 : swizzle == Swizzle::b32 ? 32 : 16;
  return {decoded(0), decoded(16), decoded(32), line, address_xor(swizzle)};
}

// ((8,m),(8,2)) : ((line,stride),(1,next)). Without swizzle the two 16-byte halves of K are `leading` apart; with one
// they are neighbours and `leading` is not used.
void fill_k_major(const Layout& layout, MatrixView& view) {
  const u32 next = layout.line == 16 ? layout.leading : 16;
  u32* chunk = view.chunks.data();
  for (u32 row = 0; row < view.rows; ++row) {
    const u32 line = layout.start + row % 8 * layout.line + row / 8 * layout.stride;
    for (u32 k = 0; k < view.depth / 8; ++k) *chunk++ = layout.swizzle(line + k * next);
  }
}

// ((8,line/16,m),(8,k)) : ((1,8,leading),(line,stride)). Without swizzle leading and stride change places.
void fill_mn_major(const Layout& layout, MatrixView& view) {
  const bool plain = layout.line == 16;
  const u32 next_atom = plain ? layout.stride : layout.leading, next_eight = plain ? layout.leading : layout.stride;
  const u32 per_line = layout.line / 16;
  u32* chunk = view.chunks.data();
  for (u32 k = 0; k < view.depth; ++k) {
    const u32 line = layout.start + k % 8 * layout.line + k / 8 * next_eight;
    for (u32 first = 0; first < view.rows / 8; first += per_line) {
      const u32 atom = line + first / per_line * next_atom;
      for (u32 i = 0; i < per_line && first + i < view.rows / 8; ++i) *chunk++ = layout.swizzle(atom + i * 16);
    }
  }
}

void fill(const Layout& layout, bool mn_major, u32 rows, u32 depth, MatrixView& view) {
  assert(rows % 8 == 0 && depth == 16);  // the K of 16-bit elements; what the instructions' shapes guarantee
  view.mn_major = mn_major;
  view.rows = rows;
  view.depth = depth;
  view.chunks.resize(std::size_t{rows} * depth / 8);
  mn_major ? fill_mn_major(layout, view) : fill_k_major(layout, view);
}

Element element(u32 descriptor, u32 first, const char* operand) {
  const u64 type = bits(descriptor, first, 3);
  if (type > 1)
    refuse("tcgen05.mma instruction descriptor", descriptor,
           std::string("type of ") + operand + " is " + std::to_string(type) + ": kind::f16 has 0 (F16) and 1 (BF16)");
  return type ? Element::bf16 : Element::f16;
}

}  // namespace

void view_sm100(u64 descriptor, bool mn_major, u32 rows, u32 depth, MatrixView& view) {
  constexpr const char* what = "tcgen05 shared memory descriptor";
  check_fixed(what, descriptor, fixed_sm100);
  const auto swizzle = [descriptor] {
    const u64 mode = bits(descriptor, 61, 3);
    const std::string named = "swizzling mode, bits 61 to 63, is " + std::to_string(mode);
    switch (mode) {
      case 0: return Swizzle::none;
      case 2: return Swizzle::b128;
      case 4: return Swizzle::b64;
      case 6: return Swizzle::b32;
      case 1: refuse(what, descriptor, named + " (128-byte with 32-byte atoms): not for 16-bit elements");
      default: refuse(what, descriptor, named + ": valid are 0, 1, 2, 4, 6");
    }
  }();
  fill(layout(descriptor, swizzle), mn_major, rows, depth, view);
}

void view_sm90(u64 descriptor, bool mn_major, u32 rows, u32 depth, MatrixView& view) {
  check_fixed("wgmma matrix descriptor", descriptor, fixed_sm90);
  constexpr Swizzle modes[] = {Swizzle::none, Swizzle::b128, Swizzle::b64, Swizzle::b32};
  fill(layout(descriptor, modes[bits(descriptor, 62, 2)]), mn_major, rows, depth, view);
}

MatrixView view_sm100(u64 descriptor, bool mn_major, u32 rows, u32 depth) {
  MatrixView view;
  view_sm100(descriptor, mn_major, rows, depth, view);
  return view;
}

MatrixView view_sm90(u64 descriptor, bool mn_major, u32 rows, u32 depth) {
  MatrixView view;
  view_sm90(descriptor, mn_major, rows, depth, view);
  return view;
}

void gather(const MatrixView& view, const u8* shared, u16* elements) {
  const u32* chunk = view.chunks.data();
  if (!view.mn_major) {
    for (std::size_t i = 0; i < view.chunks.size(); ++i) std::memcpy(elements + i * 8, shared + chunk[i], 16);
    return;
  }
  for (u32 k = 0; k < view.depth; ++k)
    for (u32 row = 0; row < view.rows; row += 8) {
      u16 eight[8];
      std::memcpy(eight, shared + *chunk++, 16);
      for (u32 i = 0; i < 8; ++i) elements[std::size_t{row + i} * view.depth + k] = eight[i];
    }
}

InstructionDescriptor instruction_descriptor(u32 descriptor, int cta_group) {
  assert(cta_group == 1 || cta_group == 2);
  constexpr const char* what = "tcgen05.mma instruction descriptor";
  check_fixed(what, descriptor, fixed_instruction);
  const auto flag = [descriptor](u32 bit) { return bits(descriptor, bit, 1) != 0; };
  const u32 m = static_cast<u32>(bits(descriptor, 24, 5)) * 16, n = static_cast<u32>(bits(descriptor, 17, 6)) * 8;
  const u32 smallest = cta_group == 1 ? 64 : 128, step = cta_group == 1 ? 8 : 16;
  const std::string group = " with cta_group::" + std::to_string(cta_group);
  if (m != smallest && m != 2 * smallest)
    refuse(what, descriptor, "M is " + std::to_string(m) + ": it must be " + std::to_string(smallest) + " or " +
                                 std::to_string(2 * smallest) + group);
  if (n == 0 || n % step || n > 256)
    refuse(what, descriptor,
           "N is " + std::to_string(n) + ": it must be a multiple of " + std::to_string(step) + " up to 256" + group);
  return {element(descriptor, 7, "A"), element(descriptor, 10, "B"), Element::f32,
          flag(15), flag(16), flag(13), flag(14), m, n};
}

}  // namespace sim
