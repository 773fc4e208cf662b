// The compiled kernels as rows, as jax_fa4/manifest.py registers them, and the choice of one for a call.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../problem.h"
#include "driver_abi.h"

namespace jax_fa4::cuda {

enum class Kind { tensor_map, pointer, i32, f32 };

// An axis of an array as a tensor map sees it. Query heads are key_value_heads x group, the group being innermost.
enum class Axis { head_dim, length, heads, group, key_value_heads, batch };

struct Parameter {
  Kind kind = Kind::i32;
  std::string of;  // the array, or the name of the number
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
  std::int64_t head_dim = 0, value_head_dim = 0;  // at most, smaller ones are padded by the loads, if `pads`
  bool pads = false;
  unsigned features = 0;        // bits of what the kernel can do beyond dense attention
  unsigned threads = 0, shared_bytes = 0;
  unsigned cluster[3] = {1, 1, 1};
  bool dependent = false;       // programmatic stream serialization
  std::int64_t rows = 0;        // query rows of a CTA's tile
  bool persistent = false;      // at most one CTA a multiprocessor, each of which walks over tiles
  std::vector<Parameter> parameters;
};

using Table = std::vector<std::shared_ptr<const Variant>>;

// The GPU that a call runs on.
struct Device {
  CUdevice id = 0;
  int major = 0, minor = 0, multiprocessors = 0, l2_bytes = 0;
  std::string name;
};

// Replaces the rows; `text` has one word and its values per line (see variants.cc). Throws std::invalid_argument.
void register_variants(const std::string& text);

// The first row that can do the call on the device. Throws Failure, which says what there is.
std::shared_ptr<const Variant> select(const Problem& problem, const Device& device);

}  // namespace jax_fa4::cuda
