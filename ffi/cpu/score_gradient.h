// What the backward pass knows of a tile of rows, and the gradient of a tile of logits from it.
// Probabilities are computed again from the log-sum-exp (FlashAttention, Dao et al. 2022, section 3.1).
#pragma once

namespace {

template <class E>
struct GradientRows {
  using Real = typename E::Real;
  using Item = typename E::Item;

  Item *query, *output_gradient;            // B[dimension][row]: as logits(...) wants it; as it is
  Item *query_rows, *output_gradient_rows;  // B[row][dimension]
  Real *log_sum_exp, *delta;                // per row; rowsum(dO * O) - d log-sum-exp

  void take(Carver& carver, const Problem& p) {
    query = carver.take<Item>(E::items(p.head_dim) * E::tile_rows);
    output_gradient = carver.take<Item>(E::items(p.value_head_dim) * E::tile_rows);
    query_rows = carver.take<Item>(E::items(E::tile_rows) * padded_to_lanes<Real>(p.head_dim));
    output_gradient_rows = carver.take<Item>(E::items(E::tile_rows) * padded_to_lanes<Real>(p.value_head_dim));
    log_sum_exp = carver.take<Real>(E::tile_rows);
    delta = carver.take<Real>(E::tile_rows);
  }
};

// What tiles of rows use in turn.
template <class E>
struct GradientScratch {
  using Real = typename E::Real;
  using Item = typename E::Item;

  Real *buffer, *output;                     // rows as they are read or written
  Real *s, *dp, *cap_slope;                  // [tile_keys][tile_rows]
  Item *probabilities, *ds_left, *ds_right;  // of a tile, as A(key, row), A(key, row) and B[key][row]

  GradientScratch(Carver& carver, const Problem& p) {
    constexpr int64_t elements = E::tile_keys * E::tile_rows;
    buffer = carver.take<Real>(E::tile_rows * padded_to_lanes<Real>(most(p.head_dim, p.value_head_dim)));
    output = carver.take<Real>(E::tile_rows * p.value_head_dim);
    s = carver.take<Real>(elements);
    dp = carver.take<Real>(elements);
    cap_slope = p.soft_cap > 0 ? carver.take<Real>(elements) : nullptr;
    probabilities = E::in_place ? reinterpret_cast<Item*>(s) : carver.take<Item>(E::items(elements));
    ds_left = E::in_place ? reinterpret_cast<Item*>(dp) : carver.take<Item>(E::items(elements));
    ds_right = E::in_place ? reinterpret_cast<Item*>(dp) : carver.take<Item>(E::items(elements));
  }
};

// Reads the rows. What the sink receives (its probability times d log-sum-exp - rowsum(dO * O)) is added to
// sink_gradients[r], which may be null.
template <class E>
void load_gradient_rows(const Problem& p, const Rows<E>& rows, GradientRows<E>& g, GradientScratch<E>& scratch,
                        double* sink_gradients) {
  using Real = typename E::Real;
  const int64_t dim = padded_to_lanes<Real>(p.head_dim), value_dim = padded_to_lanes<Real>(p.value_head_dim);
  load_query_rows(scratch.buffer, dim, p.query, rows, p.query_heads, p.head_dim);
  memset(scratch.buffer + rows.count * dim, 0, size_t((rows.padded - rows.count) * dim) * sizeof(Real));
  E::pack_right_transposed(g.query, scratch.buffer, dim, rows.count, p.head_dim, query_factor<E>(p));
  E::pack_right(g.query_rows, scratch.buffer, dim, dim, rows.padded);
  load_query_rows(scratch.buffer, value_dim, p.output_gradient, rows, p.query_heads, p.value_head_dim);
  memset(scratch.buffer + rows.count * value_dim, 0, size_t((rows.padded - rows.count) * value_dim) * sizeof(Real));
  E::pack_right_transposed(g.output_gradient, scratch.buffer, value_dim, rows.count, p.value_head_dim, Real(1));
  E::pack_right(g.output_gradient_rows, scratch.buffer, value_dim, value_dim, rows.padded);
  load_query_rows(scratch.output, p.value_head_dim, p.output, rows, p.query_heads, p.value_head_dim);

  const int64_t lse_start = p.log_sum_exp.batch.offset(rows.batch);
  const int64_t gradient_start = p.log_sum_exp_gradient.batch.offset(rows.batch);
  const int64_t sinks_start = p.sinks ? p.sinks.batch.offset(rows.batch) : 0;
  for (int64_t r = 0; r < rows.padded; ++r) {
    g.log_sum_exp[r] = g.delta[r] = 0;
    if (r >= rows.count) continue;
    const int64_t row = rows.head[r] * p.query_length + rows.query[r];
    const Real lse = load_one<Real>(p.log_sum_exp, lse_start + row);
    const Real lse_gradient = load_one<Real>(p.log_sum_exp_gradient, gradient_start + row);
    Real dot = 0;
    for (int64_t d = 0; d < p.value_head_dim; ++d) dot += scratch.buffer[r * value_dim + d] * scratch.output[r * p.value_head_dim + d];
    const bool nothing = lse == Real(minus_infinity);
    g.log_sum_exp[r] = nothing ? 0 : lse;
    g.delta[r] = nothing ? 0 : dot - lse_gradient;
    if (!sink_gradients || nothing) continue;
    const Real sink = load_one<Real>(p.sinks, sinks_start + rows.head[r]);
    sink_gradients[r] += ::exp(double(sink) - double(lse)) * (double(lse_gradient) - double(dot));
  }
}

// Leaves the probabilities in scratch.probabilities and the gradient of the logits (before the soft cap) in
// scratch.ds_left and scratch.ds_right. `slope_gradients`, per row, may be null: the gradient of ALiBi's slopes is added to it.
template <class E>
void score_gradient(const Problem& p, const Sequences& at, const Rows<E>& rows, const View<E>& view,
                    const PackedTile<E>& tile, const GradientRows<E>& g, GradientScratch<E>& scratch,
                    typename E::Real* slope_gradients) {
  using Real = typename E::Real;
  logits(p, at, rows, view, g.query, tile.key, scratch.s, scratch.cap_slope);
  const int64_t block = E::left_block(p.value_head_dim);
  for_each_run(view, [&](int64_t first, int64_t last, int64_t first_vec, int64_t last_vec) {
    const int64_t r = first_vec * lanes<Real>;
    E::multiply(last - first, (last_vec - first_vec) * lanes<Real>, p.value_head_dim, scratch.dp + first * E::tile_rows + r,
                E::tile_rows, tile.value + first / E::left_rows * block, block, g.output_gradient + r, E::tile_rows,
                false);
  });
  const Real unit = logits_unit<E>(p);
  for (int64_t v = view.first_vec; v < view.last_vec; ++v) {
    const int64_t r = v * lanes<Real>;
    E::keep_awake();
    const Vec<Real> log_sum_exp = load(g.log_sum_exp + r), delta = load(g.delta + r);
    const Vec<Real> start = slope_gradients ? signed_distance(rows, r, view.keys.first) : Vec<Real>{};
    Vec<Real> slope_sum = {};
    for (int64_t j = view.begin[v]; j < view.end[v]; j += E::numbers) {
      Vec<Real> probabilities[E::numbers], ds[E::numbers];
      for (int64_t i = 0; i < E::numbers; ++i) {
        const int64_t e = (j + i) * E::tile_rows + r;
        const Vec<Real> probability =
            exponential<E::flushes>(load(scratch.s + e) * unit - log_sum_exp, Real(log2_of_e));
        // A probability of 0 has no gradient even where the logit or value of that key is not finite.
        const IntVec<Real> unseen = probability == Real(0);
        ds[i] = unseen ? Vec<Real>{} : probability * (load(scratch.dp + e) - delta);
        if (slope_gradients) slope_sum += ds[i] * magnitude(start - Real(j + i));
        if (scratch.cap_slope) ds[i] = unseen ? Vec<Real>{} : ds[i] * load(scratch.cap_slope + e);
        probabilities[i] = probability;
      }
      E::store_left(scratch.probabilities, j, r, probabilities);
      E::store_both(scratch.ds_left, scratch.ds_right, j, r, ds);
    }
    if (slope_gradients) store(slope_gradients + r, load(slope_gradients + r) - slope_sum);
  }
}

}  // namespace
