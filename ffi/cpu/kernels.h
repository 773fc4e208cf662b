// What an instruction set offers to the handlers: one table of functions per unit (avx512.cc, avx2.cc, ...).
#pragma once

#include "../problem.h"

namespace jax_fa4::cpu {

// Tiles are the same for all instruction sets; a unit may pad rows up to its vector length.
constexpr int64_t tile_rows = 64;
constexpr int64_t tile_keys = 64;

// How the work of a call is cut. It depends on shapes alone, never on threads: that is what makes results bitwise
// independent of their number.
struct Plan {
  int64_t row_tiles = 0;      // tiles of packed rows (query, head of the group) per batch entry and key/value head
  int64_t key_parts = 1;      // keys are dealt in so many runs to tasks of their own, where queries are few
  int64_t keys_of_a_part = 0;
  int64_t forward_tasks = 0;
  int64_t merge_tasks = 0;    // tiles of rows whose parts are put together

  int64_t stripes = 1;        // row tiles are dealt round-robin to so many tasks per batch entry and key/value head
  int64_t backward_tasks = 0;
  int64_t reduce_tasks = 0;   // tiles of keys whose partial sums over stripes are added up
  int64_t bias_tasks = 0;
  int64_t bias_query_tiles = 0, bias_key_tiles = 0;

  void* forward_parts = nullptr;       // [forward task]: output, maximum and sum of its rows
  void* key_value_partials = nullptr;  // [batch][head][stripe][key][padded head_dim, then padded value_head_dim]
  double* row_partials = nullptr;      // [batch][head][stripe][head of the group][sink, slope]
};

struct Kernels {
  const char* name;
  bool (*supported)();
  size_t (*forward_scratch)(const Problem&);
  size_t (*backward_scratch)(const Problem&, const Plan&);
  size_t (*bias_scratch)(const Problem&);
  size_t (*part_bytes)(const Problem&);     // of what a forward task leaves where keys are in parts
  size_t (*partial_bytes)(const Problem&);  // of one stripe's key and value gradients
  void (*forward)(const Problem&, const Plan&, int64_t task, void* scratch);
  void (*merge)(const Problem&, const Plan&, int64_t task, void* scratch);
  void (*backward)(const Problem&, const Plan&, int64_t task, void* scratch);
  void (*reduce)(const Problem&, const Plan&, int64_t task);
  void (*bias_gradient)(const Problem&, const Plan&, int64_t task, void* scratch);
  void (*store_number)(const Operand& to, int64_t index, double number);
};

// The first of the machine's instruction sets in order of preference, or the one that JAX_FA4_CPU_ISA names.
// Null where that name is unknown or unsupported here; `names` then lists what there is.
const Kernels* chosen_kernels();
const char* kernel_names();

}  // namespace jax_fa4::cpu
