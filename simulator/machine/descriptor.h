// Shared-memory matrix descriptors and instruction descriptors (PTX ISA, tcgen05 and wgmma): decoded into views;
// unknown bits are errors.
#pragma once

#include <vector>

#include "base.h"

namespace sim {

// A matrix operand of 16-bit elements in shared memory, as the list of its 16-byte chunks: chunk (row, k / 8) for a
// K-major operand, (k, row / 8) for an MN-major one. Addresses are CTA-relative shared addresses, swizzle applied;
// they may lie beyond the window, which the caller checks.
struct MatrixView {
  bool mn_major = false;
  u32 rows = 0, depth = 0;   // M or N, and K (16)
  std::vector<u32> chunks;   // row-major in the order above, 8 elements of 16 bits each
};

// What the architecture reads from a descriptor. Throws Error naming the field when a bit or mode is not modelled.
// The forms with `view` refill one of the caller's, which saves the allocation of every instruction.
MatrixView view_sm100(u64 descriptor, bool mn_major, u32 rows, u32 depth);
MatrixView view_sm90(u64 descriptor, bool mn_major, u32 rows, u32 depth);
void view_sm100(u64 descriptor, bool mn_major, u32 rows, u32 depth, MatrixView& view);
void view_sm90(u64 descriptor, bool mn_major, u32 rows, u32 depth, MatrixView& view);

// The elements as rows x depth, K contiguous, from the shared window (every chunk must lie inside): what widen()
// takes.
void gather(const MatrixView& view, const u8* shared, u16* elements);

enum class Element : u8 { f16, bf16, f32 };

struct InstructionDescriptor {  // tcgen05.mma kind::f16
  Element a, b, d;
  bool a_mn_major, b_mn_major, negate_a, negate_b;
  u32 m, n;
};
InstructionDescriptor instruction_descriptor(u32 bits, int cta_group);

}  // namespace sim
