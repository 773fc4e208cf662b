#include "plan.h"

#include <algorithm>

namespace jax_fa4::cpu {
namespace {

int64_t tiles(int64_t length, int64_t tile) { return (length + tile - 1) / tile; }

// Enough tasks for this many threads come from the batch and the heads, or else from stripes of queries. Each stripe
// costs one more copy of the key and value gradients in float32, which bounds them.
constexpr int64_t wanted_tasks = 16;

// The forward pass of few queries, such as decoding, gets its tasks from parts of the keys, none of them short: a part
// costs one more copy of a tile of the output.
constexpr int64_t wanted_forward_tasks = 16;
constexpr int64_t least_keys_of_a_part = 1024;

// Parts are whole tiles of keys; the last may be shorter.
void cut_keys(Plan& plan, int64_t tasks, int64_t keys) {
  const int64_t most = std::max<int64_t>(1, keys / least_keys_of_a_part);
  const int64_t wanted = std::clamp(wanted_forward_tasks / std::max<int64_t>(1, tasks), int64_t{1}, most);
  plan.keys_of_a_part = std::max<int64_t>(1, tiles(tiles(keys, tile_keys), wanted)) * tile_keys;
  plan.key_parts = std::max<int64_t>(1, tiles(keys, plan.keys_of_a_part));
}

}  // namespace

Plan forward_plan(const Problem& p) {
  Plan plan;
  plan.row_tiles = tiles(p.query_length * p.group(), tile_rows);
  const int64_t row_tasks = p.batch * p.key_value_heads * plan.row_tiles;
  cut_keys(plan, row_tasks, p.key_length);
  plan.forward_tasks = row_tasks * plan.key_parts;
  plan.merge_tasks = plan.key_parts > 1 ? row_tasks : 0;
  return plan;
}

Plan backward_plan(const Problem& p) {
  Plan plan = forward_plan(p);
  const int64_t heads = std::max<int64_t>(1, p.batch * p.key_value_heads);
  plan.stripes = std::clamp(tiles(wanted_tasks, heads), int64_t{1}, std::max<int64_t>(1, plan.row_tiles));
  plan.backward_tasks = p.batch * p.key_value_heads * plan.stripes;
  plan.reduce_tasks = plan.stripes > 1 ? p.batch * p.key_value_heads * tiles(p.key_length, tile_keys) : 0;
  if (const LogitsOperand& bias = p.gradients.bias) {
    plan.bias_query_tiles = bias.query_stride ? tiles(p.query_length, tile_rows) : 1;
    plan.bias_key_tiles = bias.key_stride ? tiles(p.key_length, tile_keys) : 1;
    const int64_t heads_of_bias = bias.head_stride ? p.query_heads : 1;
    plan.bias_tasks = p.gradients.bias_batches.slabs * heads_of_bias * plan.bias_query_tiles * plan.bias_key_tiles;
  }
  return plan;
}

}  // namespace jax_fa4::cpu
