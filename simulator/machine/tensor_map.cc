// Tensor maps: the rules of cuTensorMapEncodeTiled (CUDA driver API, "Tensor Map Object Management") and the walk
// over a box.
#include "machine/tensor_map.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace sim {
namespace {

using Wrong = std::optional<std::string>;

struct TypeFacts {
  const char* name;
  u8 bytes;
  bool floating;
  bool converts;  // a load changes values (flushes or rounds them)
};
constexpr TypeFacts types[] = {
    {"UINT8", 1, false, false},   {"UINT16", 2, false, false},      {"UINT32", 4, false, false},
    {"INT32", 4, false, false},   {"UINT64", 8, false, false},      {"INT64", 8, false, false},
    {"FLOAT16", 2, true, false},  {"FLOAT32", 4, true, false},      {"FLOAT64", 8, true, false},
    {"BFLOAT16", 2, true, false}, {"FLOAT32_FTZ", 4, true, true},   {"TFLOAT32", 4, true, true},
    {"TFLOAT32_FTZ", 4, true, true},
};
constexpr u64 max_extent = u64{1} << 32, stride_end = u64{1} << 40;
constexpr u32 max_box = 256, max_element_stride = 8, max_shared_box = 1 << 18;

const TypeFacts& facts(ElementType type) { return types[static_cast<u32>(type)]; }

// Bytes that a swizzle mode permutes among each other along a row.
u32 span(Swizzle swizzle) {
  switch (swizzle) {
    case Swizzle::none: return 0;
    case Swizzle::b32: return 32;
    case Swizzle::b64: return 64;
    default: return 128;
  }
}

std::string indexed(const char* name, u32 index, u64 value) {
  return std::string(name) + "[" + std::to_string(index) + "] is " + std::to_string(value);
}

Wrong check_numbers(const TensorMapRequest& request) {
  const auto beyond = [](const char* name, u32 value, u32 last) -> Wrong {
    if (value <= last) return {};
    return std::string(name) + " is " + std::to_string(value) + ": known are 0 to " + std::to_string(last);
  };
  if (auto wrong = beyond("tensorDataType", static_cast<u32>(request.type), 12)) return wrong;
  if (auto wrong = beyond("interleave", static_cast<u32>(request.interleave), 2)) return wrong;
  if (auto wrong = beyond("swizzle", static_cast<u32>(request.swizzle), 6)) return wrong;
  if (auto wrong = beyond("l2Promotion", request.l2_promotion, 3)) return wrong;
  if (auto wrong = beyond("oobFill", static_cast<u32>(request.fill), 1)) return wrong;
  if (request.rank < 1 || request.rank > 5)
    return "tensorRank is " + std::to_string(request.rank) + ": it must be 1 to 5";
  if (request.interleave != Interleave::none && request.rank < 3)
    return "tensorRank is " + std::to_string(request.rank) + ": an interleaved layout needs 3 at least";
  if (!request.extent || !request.box || !request.element_stride || (request.rank > 1 && !request.stride))
    return "globalDim, globalStrides, boxDim and elementStrides must not be null";
  return {};
}

// The manual also shows how strides follow from padded extents; kernels with permuted dimensions (a head stride below
// the sequence's) run on real devices, so the order of strides is no rule.
Wrong check_tensor(const TensorMapRequest& request) {
  const u64 align = request.interleave == Interleave::b32 ? 32 : 16;
  const std::string multiple = ": it must be a multiple of " + std::to_string(align);
  if (request.address % align)
    return "globalAddress is " + std::to_string(request.address) + multiple;
  for (u32 i = 0; i < request.rank; ++i)
    if (request.extent[i] < 1 || request.extent[i] > max_extent)
      return indexed("globalDim", i, request.extent[i]) + ": it must be 1 to 2^32";
  for (u32 i = 0; i + 1 < request.rank; ++i) {
    if (request.stride[i] % align)
      return indexed("globalStrides", i, request.stride[i]) + multiple + " bytes";
    if (request.stride[i] >= stride_end)
      return indexed("globalStrides", i, request.stride[i]) + ": it must be less than 2^40 bytes";
  }
  return {};
}

Wrong check_box(const TensorMapRequest& request) {
  for (u32 i = 0; i < request.rank; ++i) {
    if (request.box[i] < 1 || request.box[i] > max_box)
      return indexed("boxDim", i, request.box[i]) + ": it must be 1 to 256";
    if (request.element_stride[i] < 1 || request.element_stride[i] > max_element_stride)
      return indexed("elementStrides", i, request.element_stride[i]) + ": it must be 1 to 8";
  }
  const TypeFacts& type = facts(request.type);
  const u32 row = request.box[0] * type.bytes, most = span(request.swizzle);
  const std::string inner =
      "boxDim[0] of " + std::to_string(request.box[0]) + " " + type.name + " is " + std::to_string(row) + " bytes";
  if (request.interleave == Interleave::none && row % 16) return inner + ": it must be a multiple of 16 bytes";
  if (request.interleave == Interleave::none && most && row > most)
    return inner + ": with this swizzle it must be " + std::to_string(most) + " bytes at most";
  if (request.interleave == Interleave::b32 && request.swizzle != Swizzle::b32)
    return "interleave 32B needs swizzle 32B (1), not swizzle " + std::to_string(static_cast<u32>(request.swizzle));
  if (request.fill == OutOfBoundsFill::nan_request_zero_fma && !type.floating)
    return std::string("oobFill NAN_REQUEST_ZERO_FMA needs a floating-point tensorDataType, not ") + type.name;
  return {};
}

Wrong check(const TensorMapRequest& request) {
  if (auto wrong = check_numbers(request)) return wrong;
  if (auto wrong = check_tensor(request)) return wrong;
  return check_box(request);
}

// A row of the box: `bytes` long, of which [first, last) are in bounds, `address` that of byte 0 were it in bounds.
struct Row {
  u64 address;
  u32 bytes, first, last;
};

// The bytes of a row that dimension 0 leaves in bounds.
Row clipped_row(const TensorMap& map, i32 coordinate) {
  const i64 box = map.box[0], extent = static_cast<i64>(map.extent[0]);
  const i64 first = std::clamp<i64>(-i64{coordinate}, 0, box);
  const i64 last = std::clamp<i64>(extent - coordinate, first, box);
  const u32 size = map.element_bytes;
  return {map.address + static_cast<u64>(i64{coordinate} * size), map.box[0] * size, static_cast<u32>(first) * size,
          static_cast<u32>(last) * size};
}

// Cuts a row at 16-byte boundaries and where it enters or leaves the bounds.
void cut(const Row& row, u32 shared, std::vector<BoxPiece>& pieces) {
  for (u32 at = 0; at < row.bytes;) {
    u32 end = std::min(row.bytes, (at / 16 + 1) * 16);
    if (at < row.first) end = std::min(end, row.first);
    if (at >= row.first && at < row.last) end = std::min(end, row.last);
    const bool inside = at >= row.first && at < row.last;
    pieces.push_back({inside ? row.address + at : 0, shared + at, end - at});
    at = end;
  }
}

}  // namespace

Wrong encode(const TensorMapRequest& request, TensorMap& map) {
  if (auto wrong = check(request)) return wrong;
  map = {};
  map.magic = TensorMap::signature;
  map.address = request.address;
  for (u32 i = 0; i < 5; ++i) {
    const bool used = i < request.rank;
    map.extent[i] = used ? request.extent[i] : 1;
    map.box[i] = used ? request.box[i] : 1;
    map.element_stride[i] = used ? static_cast<u16>(request.element_stride[i]) : u16{1};
    if (i + 1 < request.rank) map.stride[i] = request.stride[i];
  }
  map.rank = static_cast<u8>(request.rank);
  map.element_bytes = facts(request.type).bytes;
  map.type = static_cast<u8>(request.type);
  map.swizzle = static_cast<u8>(request.swizzle);
  map.interleave = static_cast<u8>(request.interleave);
  map.fill = static_cast<u8>(request.fill);
  map.l2_promotion = static_cast<u8>(request.l2_promotion);
  return {};
}

Wrong not_modelled(const TensorMap& map) {
  const TypeFacts& type = types[map.type];
  const Swizzle swizzle{map.swizzle};
  if (map.interleave) return "interleaved layouts are not modelled";
  if (map.fill) return "filling with NaN out of bounds is not modelled";
  if (type.converts) return std::string("tensorDataType ") + type.name + " is not modelled: a copy would change values";
  // Dimension 0 has no element stride unless interleaved: the driver ignores it.
  for (u32 i = 1; i < map.rank; ++i)
    if (map.element_stride[i] != 1) return indexed("elementStrides", i, map.element_stride[i]) + ": only 1 is modelled";
  if (swizzle == Swizzle::b128_atom_32b_flip_8b) return "swizzle 128B_ATOM_32B_FLIP_8B is not modelled";
  // Whether rows shorter than the span are packed or padded in shared memory is not documented.
  const u32 row = map.box[0] * map.element_bytes;
  if (span(swizzle) && row != span(swizzle))
    return "boxDim[0] is " + std::to_string(row) + " bytes: with this swizzle only " + std::to_string(span(swizzle)) +
           " is modelled";
  if (box_bytes(map) > max_shared_box)
    return "the box has " + std::to_string(box_bytes(map)) + " bytes, more than shared memory";
  return {};
}

std::optional<TensorMap> decode(const void* bytes, std::string* why) {
  const auto refuse = [why](std::string text) {
    if (why) *why = std::move(text);
    return std::nullopt;
  };
  TensorMap map;
  std::memcpy(&map, bytes, sizeof map);
  if (map.magic != TensorMap::signature)
    return refuse("these 128 bytes are not a tensor map made by cuTensorMapEncodeTiled");
  u32 element_stride[5];
  std::copy(map.element_stride, map.element_stride + 5, element_stride);
  const TensorMapRequest request{ElementType{map.type},      map.rank,         map.address,
                                 map.extent,                 map.stride,       map.box,
                                 element_stride,             Interleave{map.interleave},
                                 Swizzle{map.swizzle},       map.l2_promotion, OutOfBoundsFill{map.fill}};
  if (auto wrong = check(request)) return refuse("the tensor map was overwritten: " + *wrong);
  // The walk relies on what encode derived.
  map.element_bytes = facts(request.type).bytes;
  std::fill(map.box + map.rank, map.box + 5, 1);
  std::fill(map.extent + map.rank, map.extent + 5, 1);
  if (auto missing = not_modelled(map)) return refuse(*missing);
  return map;
}

u32 box_bytes(const TensorMap& map) {
  u64 bytes = map.element_bytes;
  for (const u32 box : map.box) bytes *= box;  // 8 * 256^5 at most: no overflow
  return static_cast<u32>(std::min<u64>(bytes, std::numeric_limits<u32>::max()));
}

void walk(const TensorMap& map, const i32* coordinates, std::vector<BoxPiece>& pieces) {
  if (auto missing = not_modelled(map)) throw Error("tensor copy: " + *missing);
  pieces.clear();
  const Row first = clipped_row(map, coordinates[0]);
  const u32 total = box_bytes(map);
  pieces.reserve(total / 16);
  u32 index[5] = {};
  for (u32 shared = 0; shared < total; shared += first.bytes) {
    Row row = first;
    for (u32 i = 1; i < map.rank; ++i) {
      const i64 at = i64{coordinates[i]} + index[i];
      if (at < 0 || at >= static_cast<i64>(map.extent[i])) row.first = row.last = row.bytes;
      row.address += static_cast<u64>(at) * map.stride[i - 1];
    }
    cut(row, shared, pieces);
    for (u32 i = 1; i < map.rank && ++index[i] == map.box[i]; ++i) index[i] = 0;
  }
}

std::vector<BoxPiece> walk(const TensorMap& map, const i32* coordinates) {
  std::vector<BoxPiece> pieces;
  walk(map, coordinates, pieces);
  return pieces;
}

AddressXor address_xor(Swizzle swizzle) {
  switch (swizzle) {
    case Swizzle::none: return {0, 0};
    case Swizzle::b32: return {3, 0x10};   // bit 4 with 7
    case Swizzle::b64: return {3, 0x30};   // bits 4-5 with 7-8
    case Swizzle::b128: return {3, 0x70};  // bits 4-6 with 7-9
    case Swizzle::b128_atom_32b: return {2, 0x60};  // bits 5-6 with 7-8
    case Swizzle::b128_atom_64b: return {1, 0x40};  // bit 6 with 7
    case Swizzle::b128_atom_32b_flip_8b: break;     // the manual does not say which lines are flipped
  }
  throw Error("swizzle 128B_ATOM_32B_FLIP_8B is not modelled");
}

}  // namespace sim
