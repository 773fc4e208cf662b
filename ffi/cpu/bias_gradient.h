// Gradient of bias in the shape that was given: a task owns one tile of it and visits every batch entry, head, query and
// key that is broadcast from that tile, in a fixed order. Products are computed once more; nothing of T x S is stored.
#pragma once

namespace {

template <class Real>
struct BiasScratch {
  GradientRows<Real> rows;
  Real *key, *value, *sums;  // sums: [tile of queries][tile of keys]

  BiasScratch(Carver& carver, const Problem& p) : rows(carver, p) {
    key = carver.take<Real>(tile_keys * p.head_dim);
    value = carver.take<Real>(tile_keys * p.value_head_dim);
    sums = carver.take<Real>(tile_rows * tile_keys);
  }
};

// The part of one axis that a task owns: its tile, or all of an axis that is broadcast.
struct Span {
  int64_t first, last;
};

JAX_FA4_INLINE Span span_of(bool broadcast_axis, int64_t tile, int64_t tile_size, int64_t length) {
  return broadcast_axis ? Span{0, length} : Span{tile * tile_size, least((tile + 1) * tile_size, length)};
}

template <class Real>
void add_score_gradient(const Problem& p, const Rows<Real>& rows, KeyTile tile, BiasScratch<Real>& scratch) {
  const LogitsOperand& bias = p.gradients.bias;
  for (int64_t r = 0; r < rows.count; ++r) {
    Real* to = scratch.sums + (bias.query_stride ? r * tile_keys : 0);
    for (int64_t j = 0; j < tile.count; ++j) to[bias.key_stride ? j : 0] += scratch.rows.dp[j * rows.padded + r];
  }
}

// All queries of `queries` (whole tiles) of one head against all keys of `keys`.
template <class Real>
void bias_gradient_of_head(const Problem& p, int64_t batch, int64_t head, Span queries, Span keys,
                           BiasScratch<Real>& scratch) {
  const Sequences at = sequences_of(p, batch);
  const int64_t key_head = head / p.group();
  for (int64_t query = queries.first; query < queries.last; query += tile_rows) {
    Rows<Real> rows;
    describe_rows(rows, p, at, batch, head, 1, query);
    bool loaded = false;
    for (int64_t first = keys.first; first < keys.last; first += tile_keys) {
      const KeyTile tile = {first, least(tile_keys, keys.last - first)};
      const Sight seen = sight(rows, at, tile);
      if (seen == Sight::none) continue;
      if (!loaded) load_gradient_rows(p, rows, scratch.rows, nullptr);
      loaded = true;
      load_keys(scratch.key, p.head_dim, p.key, at, batch, tile, p.key_value_heads, key_head, p.head_dim);
      load_keys(scratch.value, p.value_head_dim, p.value, at, batch, tile, p.key_value_heads, key_head,
                p.value_head_dim);
      score_gradient<Real>(p, at, rows, tile, seen, scratch.key, scratch.value, scratch.rows, nullptr);
      add_score_gradient(p, rows, tile, scratch);
    }
  }
}

template <class Real>
void bias_task(const Problem& p, const Plan& plan, int64_t task, void* memory) {
  Carver carver(memory);
  BiasScratch<Real> scratch(carver, p);
  const LogitsOperand& to = p.gradients.bias;
  const int64_t key_tile = task % plan.bias_key_tiles;
  const int64_t query_tile = task / plan.bias_key_tiles % plan.bias_query_tiles;
  const int64_t slab = task / plan.bias_key_tiles / plan.bias_query_tiles;
  const int64_t own_heads = to.head_stride ? p.query_heads : 1;
  const int64_t first_head = slab % own_heads, heads = to.head_stride ? 1 : p.query_heads;
  const int64_t batch_slab = slab / own_heads;
  const Span queries = span_of(!to.query_stride, query_tile, tile_rows, p.query_length);
  const Span keys = span_of(!to.key_stride, key_tile, tile_keys, p.key_length);

  memset(scratch.sums, 0, tile_rows * tile_keys * sizeof(Real));
  const jax_fa4::SharedBatches& batches = p.gradients.bias_batches;
  for (int64_t sharer = 0; sharer < batches.sharers; ++sharer)
    for (int64_t head = first_head; head < first_head + heads; ++head)
      bias_gradient_of_head(p, batches.batch(batch_slab, sharer), head, queries, keys, scratch);

  const int64_t batch = batches.batch(batch_slab, 0);
  const int64_t rows = to.query_stride ? queries.last - queries.first : 1;
  const int64_t columns = to.key_stride ? keys.last - keys.first : 1;
  for (int64_t r = 0; r < rows; ++r)
    store_row(to.data, to.element,
              logits_index(to, batch, first_head, to.query_stride ? queries.first + r : 0) +
                  (to.key_stride ? keys.first : 0),
              scratch.sums + r * tile_keys, columns);
}

}  // namespace
