// Gradient of bias in the shape that was given: a task owns one tile of it and visits every batch entry, head, query and
// key that is broadcast from that tile, in a fixed order. Products are computed once more; nothing of T x S is stored.
#pragma once

namespace {

template <class E>
struct BiasScratch {
  using Real = typename E::Real;

  GradientRows<E> rows;
  GradientScratch<E> gradient;
  PackScratch<E> packing;
  typename E::Item* tile;
  Real* sums;  // [tile of queries][tile of keys]

  BiasScratch(Carver& carver, const Problem& p) : gradient(carver, p), packing(carver, p) {
    rows.take(carver, p);
    tile = carver.take<typename E::Item>(PackedTile<E>::size(p, Pass::backward));
    sums = carver.take<Real>(E::tile_rows * E::tile_keys);
  }
};

// The part of one axis that a task owns: its tile, or all of an axis that is broadcast.
struct Span {
  int64_t first, last;
};

JAX_FA4_INLINE Span span_of(bool broadcast_axis, int64_t tile, int64_t tile_size, int64_t length) {
  return broadcast_axis ? Span{0, length} : Span{tile * tile_size, least((tile + 1) * tile_size, length)};
}

template <class E>
void add_score_gradient(const Problem& p, const Rows<E>& rows, const View<E>& view, BiasScratch<E>& scratch) {
  using Real = typename E::Real;
  static_assert(E::in_place);
  const LogitsOperand& bias = p.gradients.bias;
  for (int64_t r = 0; r < rows.count; ++r) {
    const int64_t v = r / lanes<Real>;
    if (v < view.first_vec || v >= view.last_vec) continue;
    Real* to = scratch.sums + (bias.query_stride ? r * E::tile_keys : 0);
    for (int64_t j = view.begin[v]; j < least(view.end[v], view.keys.count); ++j)
      to[bias.key_stride ? j : 0] += scratch.gradient.dp[j * E::tile_rows + r];
  }
}

// All queries of `queries` (whole tiles) of one head against all keys of `keys`.
template <class E>
void bias_gradient_of_head(const Problem& p, int64_t batch, int64_t head, Span queries, Span keys,
                           BiasScratch<E>& scratch) {
  using Real = typename E::Real;
  const Sequences at = sequences_of(p, batch);
  const Plan nothing_packed;
  for (int64_t query = queries.first; query < queries.last; query += E::tile_rows) {
    Rows<E> rows;
    describe_rows(rows, p, at, batch, head, 1, query);
    bool loaded = false;
    for (int64_t first = keys.first; first < keys.last; first += E::tile_keys) {
      const KeyTile run = {first, least(E::tile_keys, keys.last - first)};
      const View<E> view = view_of(rows, at, run);
      if (view.nothing()) continue;
      if (!loaded) load_gradient_rows(p, rows, scratch.rows, scratch.gradient, nullptr);
      loaded = true;
      const PackedTile<E> packed = packed_tile(p, nothing_packed, Pass::backward, at, batch, head / p.group(), run,
                                               scratch.tile, scratch.packing);
      score_gradient(p, at, rows, view, packed, scratch.rows, scratch.gradient, static_cast<Real*>(nullptr));
      add_score_gradient(p, rows, view, scratch);
    }
  }
}

template <class E>
void bias_task(const Problem& p, const Plan& plan, int64_t task, void* memory) {
  using Real = typename E::Real;
  Carver carver(memory);
  BiasScratch<E> scratch(carver, p);
  const typename E::Session session;
  const LogitsOperand& to = p.gradients.bias;
  const int64_t key_tile = task % plan.bias_key_tiles;
  const int64_t query_tile = task / plan.bias_key_tiles % plan.bias_query_tiles;
  const int64_t slab = task / plan.bias_key_tiles / plan.bias_query_tiles;
  const int64_t own_heads = to.head_stride ? p.query_heads : 1;
  const int64_t first_head = slab % own_heads, heads = to.head_stride ? 1 : p.query_heads;
  const int64_t batch_slab = slab / own_heads;
  const Span queries = span_of(!to.query_stride, query_tile, E::tile_rows, p.query_length);
  const Span keys = span_of(!to.key_stride, key_tile, E::tile_keys, p.key_length);

  memset(scratch.sums, 0, E::tile_rows * E::tile_keys * sizeof(Real));
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
              scratch.sums + r * E::tile_keys, columns);
}

}  // namespace
