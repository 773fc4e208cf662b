// The compiled kernels as rows, as jax_fa4/manifest.py registers them, and the choice of one for a call.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../problem.h"
#include "driver_abi.h"

namespace jax_fa4::cuda {

struct ArrayRow;
struct IntegerRow;
struct FloatRow;

enum class Kind { tensor_map, pointer, i32, f32 };

// An axis of an array as a tensor map sees it: `pack` is that of neighbouring query heads which share a tile, and
// `heads` then counts such packs.
enum class Axis { head_dim, pack, length, heads, batch };

constexpr size_t max_rank = 5;
constexpr size_t max_parameters = 64;

struct Parameter {
  Kind kind = Kind::i32;
  std::string of;  // the array, or the name of the number; one of these three is what parameters.cc has under it
  const ArrayRow* array = nullptr;
  const IntegerRow* integer = nullptr;
  const FloatRow* number = nullptr;
  bool strided = false;  // the kernel also takes the array's stride over the batch, so that its entries may be shared
  // Of a tensor map, innermost axis first.
  std::vector<Axis> axes;
  std::vector<std::uint32_t> box;
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
};

struct Variant {
  std::string name, entry;
  std::string arch;             // "sm_100a": that GPU alone; "sm_100f": its family; "sm_100": that one and later ones
  std::string cubin, ptx;       // files; at least one is there
  int minimum_driver = 0;       // 12080 is CUDA 12.8
  Element element = Element::bf16, output = Element::bf16;
  std::int64_t head_dim = 0, value_head_dim = 0;  // at most: smaller ones are padded by the tensor copies
  unsigned features = 0;        // bits of what the kernel can do beyond dense attention
  unsigned threads = 0, shared_bytes = 0;
  unsigned cluster[3] = {1, 1, 1};
  bool dependent = false;       // programmatic stream serialization
  // Query rows that a CTA works on; those of a cluster work on neighbouring ones. With packed heads a row is a position
  // of one of them.
  std::int64_t rows = 0;
  std::int64_t minimum_rows = 0;  // chosen only for calls that have more rows of a head than that
  bool persistent = false;        // at most one CTA a multiprocessor, each of which walks over tiles
  std::vector<Parameter> parameters;
  std::int64_t largest_pack = 1;  // of query heads in a tile, from the boxes of the tensor maps
};

using Table = std::vector<std::shared_ptr<const Variant>>;

// The GPU that a call runs on.
struct Device {
  CUdevice id = 0;
  int major = 0, minor = 0, multiprocessors = 0, l2_bytes = 0;
  std::string name;
};

// Replaces the rows; for `text` see rows.h. Throws std::invalid_argument.
void register_variants(const std::string& text);

// Query heads that share a tile: the largest power of two of those that share keys, as far as rows stay countable.
std::int64_t pack_of(const Problem& problem, const Variant& variant);

// The first row that can do the call on the device. Throws Failure, which says what there is.
std::shared_ptr<const Variant> select(const Problem& problem, const Device& device);

}  // namespace jax_fa4::cuda
