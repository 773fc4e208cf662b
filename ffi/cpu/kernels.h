// What an instruction set offers to the handlers: one table of functions per unit (avx512.cc, avx2.cc, ...).
#pragma once

#include "../problem.h"

namespace jax_fa4::cpu {

// How many packed rows (query, head of the group) and keys an engine takes at once.
struct TileShape {
  int64_t rows, keys;
};

// Neighbouring tiles of rows that a task takes through the keys together: a tile of keys that one after the other reads
// comes from the nearest cache.
constexpr int64_t most_tiles_of_a_task = 4;

// A call of so few rows of a key/value head reads keys and values where they lie, in tiles of so many keys (narrow.h).
constexpr int64_t narrow_rows = 16, narrow_keys = 32;

// How the work of a call is cut. It depends on shapes alone, never on threads: that is what makes results bitwise
// independent of their number.
struct Plan {
  int64_t row_tiles = 0;      // tiles of rows per batch entry and key/value head
  int64_t key_tiles = 0;      // tiles of keys
  int64_t tiles_of_a_task = 1;
  int64_t row_groups = 0;     // groups of so many tiles per batch entry and key/value head
  int64_t packed_tasks = 0;   // tiles of keys, over batch and heads, that are packed beforehand; 0: where they are used
  int64_t key_parts = 1;      // keys are dealt in so many runs to tasks of their own, where queries are few
  int64_t keys_of_a_part = 0;
  int64_t forward_tasks = 0;
  int64_t heads_of_a_task = 0;  // key/value heads that a task of a narrow call takes together; 0: the call is not narrow
  int64_t head_tasks = 0;       // runs of so many heads
  int64_t merge_tasks = 0;    // tiles of rows whose parts are put together

  int64_t stripes = 1;        // row groups are dealt to so many tasks per batch entry and key/value head
  int64_t groups_of_a_run = 0;  // which a stripe is; 0: round-robin
  int64_t backward_tasks = 0;
  int64_t reduce_tasks = 0;   // tiles of keys whose partial sums over stripes are added up
  int64_t bias_tasks = 0;
  int64_t bias_query_tiles = 0, bias_key_tiles = 0;

  void* packed = nullptr;              // [batch][head][tile of keys]: keys and values as the engine reads them
  void* forward_parts = nullptr;       // [forward task]: output, maximum and sum of its rows
  void* key_value_partials = nullptr;  // [batch][head][stripe][key][padded head_dim, then padded value_head_dim]
  double* row_partials = nullptr;      // [batch][head][stripe][head of the group][sink, slope]
};

enum class Pass { forward, backward };

struct Kernels {
  const char* name;
  bool (*supported)();
  bool (*preferred)();  // whether it runs without being asked for, where it is supported; null: it does
  TileShape (*tiles)(const Problem&, Pass);
  TileShape (*bias_tiles)(const Problem&);
  size_t (*packed_bytes)(const Problem&, Pass);  // of one tile of keys
  size_t (*pack_scratch)(const Problem&, Pass);
  size_t (*forward_scratch)(const Problem&, const Plan&);
  size_t (*backward_scratch)(const Problem&, const Plan&);
  size_t (*bias_scratch)(const Problem&);
  size_t (*part_bytes)(const Problem&, const Plan&);  // of what a forward task leaves where keys are in parts
  size_t (*partial_bytes)(const Problem&);  // of one stripe's key and value gradients
  void (*pack)(const Problem&, const Plan&, Pass, int64_t task, void* scratch);
  void (*forward)(const Problem&, const Plan&, int64_t task, void* scratch);
  void (*merge)(const Problem&, const Plan&, int64_t task, void* scratch);
  void (*backward)(const Problem&, const Plan&, int64_t task, void* scratch);
  void (*reduce)(const Problem&, const Plan&, int64_t task);
  void (*bias_gradient)(const Problem&, const Plan&, int64_t task, void* scratch);
  void (*store_number)(const Operand& to, int64_t index, double number);
};

// The first of the machine's instruction sets in order of preference, or the one that JAX_FA4_CPU_ISA names.
// Null where that name is unknown or unsupported here; `kernel_names` lists what there is, in that order.
const Kernels* chosen_kernels();
const char* kernel_names();

}  // namespace jax_fa4::cpu
