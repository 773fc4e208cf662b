#include "plan.h"

#include <algorithm>

namespace jax_fa4::cpu {
namespace {

int64_t tiles(int64_t length, int64_t tile) { return (length + tile - 1) / tile; }

// Enough tasks for this many threads come from the batch and the heads, or else from stripes of queries, none of them
// narrow: each costs one more copy of the key and value gradients in float32.
constexpr int64_t wanted_tasks = 16;
constexpr int64_t least_rows_of_a_stripe = 1024;

// The forward pass of few queries, such as decoding, gets its tasks from parts of the keys, none of them short: a part
// costs one more copy of a tile of the output.
constexpr int64_t wanted_forward_tasks = 16;
constexpr int64_t least_keys_of_a_part = 1024;

// Tiles of rows are put together only as far as this many tasks remain.
constexpr int64_t least_tasks = 32;

// Parts are whole tiles of keys; the last may be shorter.
void cut_keys(Plan& plan, int64_t tasks, int64_t keys, int64_t tile_keys) {
  const int64_t most = std::max<int64_t>(1, keys / least_keys_of_a_part);
  const int64_t wanted = std::clamp(wanted_forward_tasks / std::max<int64_t>(1, tasks), int64_t{1}, most);
  plan.keys_of_a_part = std::max<int64_t>(1, tiles(tiles(keys, tile_keys), wanted)) * tile_keys;
  plan.key_parts = std::max<int64_t>(1, tiles(keys, plan.keys_of_a_part));
}

Plan tiled(const Problem& p, TileShape tile) {
  Plan plan;
  plan.row_tiles = tiles(p.query_length * p.group(), tile.rows);
  plan.key_tiles = tiles(p.key_length, tile.keys);
  plan.tiles_of_a_task = std::clamp(p.batch * p.key_value_heads * plan.row_tiles / least_tasks, int64_t{1},
                                    most_tiles_of_a_task);
  plan.row_groups = tiles(plan.row_tiles, plan.tiles_of_a_task);
  // Keys that one tile of rows reads are not worth a phase of their own.
  plan.packed_tasks = plan.row_tiles > 1 ? p.batch * p.key_value_heads * plan.key_tiles : 0;
  return plan;
}

// Memory is read best in runs of some 4 KB, which heads of a token are together; and a task should take much longer
// than it takes to hand it to a thread.
constexpr int64_t bytes_of_a_run = 4096, least_bytes_of_a_part = 1 << 18;
constexpr int64_t wanted_narrow_tasks = 32;

Plan narrow_plan(const Problem& p) {
  Plan plan;
  const int64_t element = bytes_of(p.query.element);
  const int64_t most_heads = std::clamp(bytes_of_a_run / (p.head_dim * element), int64_t{1}, p.key_value_heads);
  plan.heads_of_a_task = tiles(p.key_value_heads, tiles(p.key_value_heads, most_heads));
  plan.head_tasks = tiles(p.key_value_heads, plan.heads_of_a_task);
  const int64_t tasks = std::max<int64_t>(1, p.batch * plan.head_tasks);
  const int64_t bytes_of_a_key = plan.heads_of_a_task * (p.head_dim + p.value_head_dim) * element;
  const int64_t least_keys = std::max(narrow_keys, least_bytes_of_a_part / bytes_of_a_key);
  const int64_t most_parts = std::max<int64_t>(1, p.key_length / least_keys);
  const int64_t parts = std::clamp(wanted_narrow_tasks / tasks, int64_t{1}, most_parts);
  plan.keys_of_a_part = std::max<int64_t>(1, tiles(tiles(p.key_length, narrow_keys), parts)) * narrow_keys;
  plan.key_parts = std::max<int64_t>(1, tiles(p.key_length, plan.keys_of_a_part));
  plan.forward_tasks = p.batch * plan.head_tasks * plan.key_parts;
  plan.merge_tasks = plan.key_parts > 1 ? p.batch * plan.head_tasks : 0;
  return plan;
}

// Rows near each other then see the same few keys, and stripes that are runs of rows touch few keys in common. Else all
// of them touch all keys, and dealt round-robin the long rows of a causal call are spread evenly.
bool has_narrow_band(const Problem& p) {
  return p.window_left >= 0 && p.window_right >= 0 && p.window_left + p.window_right < p.key_length / 4;
}

}  // namespace

Plan forward_plan(const Problem& p, TileShape tile) {
  if (p.query_length * p.group() <= narrow_rows && !p.differentiated) return narrow_plan(p);
  Plan plan = tiled(p, tile);
  const int64_t row_tasks = p.batch * p.key_value_heads * plan.row_groups;
  cut_keys(plan, row_tasks, p.key_length, tile.keys);
  plan.forward_tasks = row_tasks * plan.key_parts;
  plan.merge_tasks = plan.key_parts > 1 ? p.batch * p.key_value_heads * plan.row_tiles : 0;
  return plan;
}

Plan backward_plan(const Problem& p, TileShape tile, TileShape bias_tile) {
  Plan plan = tiled(p, tile);
  const int64_t heads = std::max<int64_t>(1, p.batch * p.key_value_heads);
  const int64_t most_stripes = std::clamp(p.query_length * p.group() / least_rows_of_a_stripe, int64_t{1},
                                          std::max<int64_t>(1, plan.row_groups));
  plan.stripes = std::clamp(tiles(wanted_tasks, heads), int64_t{1}, most_stripes);
  if (has_narrow_band(p)) plan.groups_of_a_run = tiles(plan.row_groups, plan.stripes);
  plan.backward_tasks = p.batch * p.key_value_heads * plan.stripes;
  plan.reduce_tasks = plan.stripes > 1 ? p.batch * p.key_value_heads * plan.key_tiles : 0;
  if (const LogitsOperand& bias = p.gradients.bias) {
    plan.bias_query_tiles = bias.query_stride ? tiles(p.query_length, bias_tile.rows) : 1;
    plan.bias_key_tiles = bias.key_stride ? tiles(p.key_length, bias_tile.keys) : 1;
    const int64_t heads_of_bias = bias.head_stride ? p.query_heads : 1;
    plan.bias_tasks = p.gradients.bias_batches.slabs * heads_of_bias * plan.bias_query_tiles * plan.bias_key_tiles;
  }
  return plan;
}

}  // namespace jax_fa4::cpu
