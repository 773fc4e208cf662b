// Backward pass: gradients of query, key, value, sinks and slopes. A task owns a stripe of row tiles of one key/value
// head: it writes the query gradients of its rows and sums key and value gradients over them; stripes are added up
// afterwards in a fixed order.
#pragma once

namespace {

// Key gradients of one task, [key][padded head_dim], followed by the value gradients, [key][padded value_head_dim].
template <class Real>
struct KeySums {
  Real *key, *value;

  static int64_t size(const Problem& p) {
    return p.key_length * (padded_to_lanes<Real>(p.head_dim) + padded_to_lanes<Real>(p.value_head_dim));
  }
  KeySums(const Problem& p, Real* memory)
      : key(memory), value(memory + p.key_length * padded_to_lanes<Real>(p.head_dim)) {}
};

template <class Real>
struct BackwardScratch {
  GradientRows<Real> rows;
  Real *key, *value;       // the head's keys and values, [key_length][dim]
  Real *query_gradient;    // transposed
  Real *slope_gradients;   // per row of the tile
  double* sink_gradients;  // per row of the tile
  Real* sums;              // KeySums, where no other task shares the head

  BackwardScratch(Carver& carver, const Problem& p, const Plan& plan) : rows(carver, p) {
    key = carver.take<Real>(p.key_length * p.head_dim);
    value = carver.take<Real>(p.key_length * p.value_head_dim);
    query_gradient = carver.take<Real>(p.head_dim * tile_rows);
    slope_gradients = carver.take<Real>(tile_rows);
    sink_gradients = carver.take<double>(tile_rows);
    sums = plan.stripes == 1 ? carver.take<Real>(KeySums<Real>::size(p)) : nullptr;
  }
};

template <class Real>
void store_key_gradients(const Problem& p, int64_t batch, int64_t head, KeyTile tile, Real* key, Real* value) {
  const int64_t dim = padded_to_lanes<Real>(p.head_dim), value_dim = padded_to_lanes<Real>(p.value_head_dim);
  for (int64_t j = tile.first; j < tile.first + tile.count; ++j, key += dim, value += value_dim) {
    for (int64_t d = 0; d < dim; ++d) key[d] *= Real(p.scale);
    const Operand &to_key = p.gradients.key, &to_value = p.gradients.value;
    if (to_key)
      store_row(to_key.data, to_key.element, row_index(to_key, batch, j, p.key_value_heads, head, p.head_dim), key,
                p.head_dim);
    if (to_value)
      store_row(to_value.data, to_value.element,
                row_index(to_value, batch, j, p.key_value_heads, head, p.value_head_dim), value, p.value_head_dim);
  }
}

template <class Real>
void add_tile(const Problem& p, const Rows<Real>& rows, KeyTile tile, const Real* key, BackwardScratch<Real>& scratch,
              KeySums<Real>& sums) {
  const int64_t dim = padded_to_lanes<Real>(p.head_dim), value_dim = padded_to_lanes<Real>(p.value_head_dim);
  const GradientRows<Real>& g = scratch.rows;
  product<Real>(tile.count, value_dim, rows.count, {sums.value + tile.first * value_dim, value_dim},
                {g.s, rows.padded, 1}, {g.output_gradient_rows, value_dim}, true);
  product<Real>(tile.count, dim, rows.count, {sums.key + tile.first * dim, dim}, {g.dp, rows.padded, 1},
                {g.query_rows, dim}, true);
  product<Real>(p.head_dim, rows.padded, tile.count, {scratch.query_gradient, rows.padded}, {key, 1, p.head_dim},
                {g.dp, rows.padded}, true);
}

template <class Real>
void store_query_gradient(const Problem& p, const Rows<Real>& rows, BackwardScratch<Real>& scratch) {
  if (!p.gradients.query) return;
  Real* to = scratch.rows.query_rows;  // read no more
  for (int64_t d = 0; d < p.head_dim; ++d)
    for (int64_t r = 0; r < rows.count; ++r)
      to[r * p.head_dim + d] = Real(p.scale) * scratch.query_gradient[d * rows.padded + r];
  store_query_rows(p.gradients.query, to, p.head_dim, rows, p.query_heads, p.head_dim);
}

// One tile of rows against all keys it sees.
template <class Real>
void backward_rows(const Problem& p, const Sequences& at, int64_t batch, int64_t head, int64_t tile,
                   BackwardScratch<Real>& scratch, KeySums<Real>& sums, double* row_sums) {
  Rows<Real> rows;
  describe_rows(rows, p, at, batch, head * p.group(), p.group(), tile * tile_rows);
  memset(scratch.sink_gradients, 0, tile_rows * sizeof(double));
  memset(scratch.slope_gradients, 0, tile_rows * sizeof(Real));
  memset(scratch.query_gradient, 0, size_t(p.head_dim * rows.padded) * sizeof(Real));
  load_gradient_rows(p, rows, scratch.rows, p.gradients.sinks ? scratch.sink_gradients : nullptr);

  for (int64_t first = rows.key_begin; first < rows.key_end; first += tile_keys) {
    const KeyTile keys = {first, least(tile_keys, rows.key_end - first)};
    const Sight seen = sight(rows, at, keys);
    if (seen == Sight::none) continue;
    const Real* key = scratch.key + first * p.head_dim;
    score_gradient(p, at, rows, keys, seen, key, static_cast<const Real*>(scratch.value + first * p.value_head_dim),
                   scratch.rows, p.gradients.alibi_slopes ? scratch.slope_gradients : nullptr);
    add_tile(p, rows, keys, key, scratch, sums);
  }
  store_query_gradient(p, rows, scratch);
  for (int64_t r = 0; r < rows.count; ++r) {
    double* to = row_sums + 2 * (rows.head[r] - head * p.group());
    to[0] += scratch.sink_gradients[r];
    to[1] += double(scratch.slope_gradients[r]);
  }
}

template <class Real>
void backward_task(const Problem& p, const Plan& plan, int64_t task, void* memory) {
  Carver carver(memory);
  BackwardScratch<Real> scratch(carver, p, plan);
  const int64_t stripe = task % plan.stripes;
  const int64_t head = task / plan.stripes % p.key_value_heads;
  const int64_t batch = task / plan.stripes / p.key_value_heads;

  const Sequences at = sequences_of(p, batch);
  const KeyTile all = {0, p.key_length};
  load_keys(scratch.key, p.head_dim, p.key, at, batch, all, p.key_value_heads, head, p.head_dim);
  load_keys(scratch.value, p.value_head_dim, p.value, at, batch, all, p.key_value_heads, head, p.value_head_dim);
  const int64_t size = KeySums<Real>::size(p);
  Real* sums_memory = scratch.sums ? scratch.sums : static_cast<Real*>(plan.key_value_partials) + task * size;
  memset(sums_memory, 0, size_t(size) * sizeof(Real));
  KeySums<Real> sums(p, sums_memory);
  double* row_sums = plan.row_partials + task * 2 * p.group();
  for (int64_t tile = plan.row_tiles - 1 - stripe; tile >= 0; tile -= plan.stripes)
    backward_rows(p, at, batch, head, tile, scratch, sums, row_sums);
  if (plan.stripes == 1) store_key_gradients(p, batch, head, all, sums.key, sums.value);
}

// Adds up what the stripes found for one tile of keys of one head.
template <class Real>
void reduce_task(const Problem& p, const Plan& plan, int64_t task) {
  const int64_t key_tiles = plan.reduce_tasks / (p.batch * p.key_value_heads);
  const int64_t first = task % key_tiles * tile_keys;
  const int64_t unit = task / key_tiles;
  const KeyTile tile = {first, least(tile_keys, p.key_length - first)};
  const int64_t dim = padded_to_lanes<Real>(p.head_dim), value_dim = padded_to_lanes<Real>(p.value_head_dim);
  Real* partials = static_cast<Real*>(plan.key_value_partials) + unit * plan.stripes * KeySums<Real>::size(p);
  const KeySums<Real> total(p, partials);
  for (int64_t stripe = 1; stripe < plan.stripes; ++stripe) {
    const KeySums<Real> part(p, partials + stripe * KeySums<Real>::size(p));
    for (int64_t e = first * dim; e < (first + tile.count) * dim; ++e) total.key[e] += part.key[e];
    for (int64_t e = first * value_dim; e < (first + tile.count) * value_dim; ++e) total.value[e] += part.value[e];
  }
  store_key_gradients(p, unit / p.key_value_heads, unit % p.key_value_heads, tile, total.key + first * dim,
                      total.value + first * value_dim);
}

}  // namespace
