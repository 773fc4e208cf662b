// Tensor maps in the simulator's own 128-byte format (NVIDIA keeps theirs opaque): encode with the driver API's
// checks, walk a box.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base.h"

namespace sim {

// The driver API's names (cuTensorMapEncodeTiled), by their documented numbers.
enum class ElementType : u32 { u8, u16, u32, i32, u64, i64, f16, f32, f64, bf16, f32_ftz, tf32, tf32_ftz };
enum class Interleave : u32 { none, b16, b32 };
enum class Swizzle : u32 { none, b32, b64, b128, b128_atom_32b, b128_atom_32b_flip_8b, b128_atom_64b };
enum class OutOfBoundsFill : u32 { none, nan_request_zero_fma };

struct TensorMap {
  static constexpr u64 signature = 0x70616D2D34616676;
  u64 magic;
  u64 address;        // of element 0
  u64 extent[5];      // innermost first; those beyond rank are 1
  u64 stride[4];      // bytes, of dimensions 1 ..
  u32 box[5];         // those beyond rank are 1
  u16 element_stride[5];
  u8 rank, element_bytes, type, swizzle, interleave, fill, l2_promotion, reserved[3];
};
static_assert(sizeof(TensorMap) == 128);

struct TensorMapRequest {
  ElementType type;
  u32 rank;
  u64 address;
  const u64* extent;
  const u64* stride;  // rank - 1 of them, bytes
  const u32* box;
  const u32* element_stride;
  Interleave interleave;
  Swizzle swizzle;
  u32 l2_promotion;
  OutOfBoundsFill fill;
};

// Checks every rule the driver API documents; returns what is wrong in words, or nothing and fills `map`.
std::optional<std::string> encode(const TensorMapRequest& request, TensorMap& map);

// What the driver API allows and a copy here does not do yet (interleave, element strides, NaN fill, ...), in words.
std::optional<std::string> not_modelled(const TensorMap& map);

// The map at `bytes` (128, may be unaligned), or null with `why` if it is not one of ours, or one that no copy here
// can use.
std::optional<TensorMap> decode(const void* bytes, std::string* why = nullptr);

// One contiguous piece of a box: `bytes` bytes at global `address` (0: out of bounds, filled with zeros when loaded
// and dropped when stored) <-> offset `shared` in the box's shared-memory image, counted from the box's start BEFORE
// swizzling. Pieces are at most 16 bytes and never cross a 16-byte boundary of the image, so that the swizzle applies
// to a piece as a whole.
struct BoxPiece {
  u64 address;
  u32 shared;
  u32 bytes;
};

// Of the whole box, in bounds or not: what complete_tx counts. Saturates.
u32 box_bytes(const TensorMap& map);

// The pieces in order of `shared`; coordinates: rank of them, innermost first. Throws Error if the map is not
// modelled. The second form refills a vector of the caller's, which saves the allocation of every copy.
std::vector<BoxPiece> walk(const TensorMap& map, const i32* coordinates);
void walk(const TensorMap& map, const i32* coordinates, std::vector<BoxPiece>& pieces);

// A swizzle mode as what it does to a shared address: some bits are XORed with bits further up. PTX ISA, "Swizzling
// Modes".
struct AddressXor {
  u32 shift, mask;
  constexpr u32 operator()(u32 address) const { return address ^ ((address >> shift) & mask); }
};
// Throws Error for a mode that is not modelled (the 8-byte flip).
AddressXor address_xor(Swizzle swizzle);

// Shared address of a byte: XORs address bits as the swizzle says; absolute address in, absolute address out.
inline u32 swizzled(Swizzle swizzle, u32 address) { return address_xor(swizzle)(address); }

}  // namespace sim
