// What the backward pass knows of a tile of rows, and the gradient of a tile of logits from it.
// Probabilities are computed again from the log-sum-exp (FlashAttention, Dao et al. 2022, section 3.1).
#pragma once

namespace {

template <class Real>
struct GradientRows {
  Real *query_rows, *query;                      // [count][padded head_dim] and transposed, scaled
  Real *output_gradient_rows, *output_gradient;  // [count][padded value_head_dim] and transposed
  Real *log_sum_exp, *delta;                     // per row; rowsum(dO * O) - d log-sum-exp
  Real *s, *dp, *cap_slope;                      // [tile_keys][tile_rows]

  GradientRows(Carver& carver, const Problem& p) {
    query_rows = carver.take<Real>(tile_rows * padded_to_lanes<Real>(p.head_dim));
    query = carver.take<Real>(p.head_dim * tile_rows);
    output_gradient_rows = carver.take<Real>(tile_rows * padded_to_lanes<Real>(p.value_head_dim));
    output_gradient = carver.take<Real>(p.value_head_dim * tile_rows);
    log_sum_exp = carver.take<Real>(tile_rows);
    delta = carver.take<Real>(tile_rows);
    s = carver.take<Real>(tile_keys * tile_rows);
    dp = carver.take<Real>(tile_keys * tile_rows);
    cap_slope = p.soft_cap > 0 ? carver.take<Real>(tile_keys * tile_rows) : nullptr;
  }
};

// Reads the rows. What the sink receives (its probability times d log-sum-exp - rowsum(dO * O)) is added to
// sink_gradients[r], which may be null.
template <class Real>
void load_gradient_rows(const Problem& p, const Rows<Real>& rows, GradientRows<Real>& g, double* sink_gradients) {
  const int64_t dim = padded_to_lanes<Real>(p.head_dim), value_dim = padded_to_lanes<Real>(p.value_head_dim);
  // g.output_gradient serves as room for the output until it is written itself.
  Real* output = g.output_gradient;
  load_query_rows(g.query_rows, dim, p.query, rows, p.query_heads, p.head_dim);
  load_query_rows(g.output_gradient_rows, value_dim, p.output_gradient, rows, p.query_heads, p.value_head_dim);
  load_query_rows(output, p.value_head_dim, p.output, rows, p.query_heads, p.value_head_dim);
  for (int64_t r = 0; r < rows.padded; ++r) {
    g.log_sum_exp[r] = g.delta[r] = 0;
    if (r >= rows.count) continue;
    const int64_t row = rows.head[r] * p.query_length + rows.query[r];
    const Real lse = load_one<Real>(p.log_sum_exp, p.log_sum_exp.batch.offset(rows.batch) + row);
    const Real lse_gradient =
        load_one<Real>(p.log_sum_exp_gradient, p.log_sum_exp_gradient.batch.offset(rows.batch) + row);
    Real dot = 0;
    for (int64_t d = 0; d < p.value_head_dim; ++d)
      dot += g.output_gradient_rows[r * value_dim + d] * output[r * p.value_head_dim + d];
    const bool nothing = lse == Real(minus_infinity);
    g.log_sum_exp[r] = nothing ? 0 : lse;
    g.delta[r] = nothing ? 0 : dot - lse_gradient;
    if (!sink_gradients || nothing) continue;
    const Real sink = load_one<Real>(p.sinks, p.sinks.batch.offset(rows.batch) + rows.head[r]);
    sink_gradients[r] += ::exp(double(sink) - double(lse)) * (double(lse_gradient) - double(dot));
  }
  transpose(g.query, rows.padded, g.query_rows, dim, rows.count, p.head_dim, Real(p.scale));
  transpose(g.output_gradient, rows.padded, g.output_gradient_rows, value_dim, rows.count, p.value_head_dim, Real(1));
}

// Leaves the probabilities in g.s and the gradient of the logits (before the soft cap) in g.dp. `slope_gradients`, per
// row, may be null: the gradient of ALiBi's slopes is added to it.
template <class Real>
void score_gradient(const Problem& p, const Sequences& at, const Rows<Real>& rows, KeyTile tile, Sight seen,
                    const Real* key, const Real* value, GradientRows<Real>& g, Real* slope_gradients) {
  logits(p, at, rows, tile, seen, static_cast<const Real*>(g.query), key, g.s, g.cap_slope);
  product<Real>(tile.count, rows.padded, p.value_head_dim, {g.dp, rows.padded}, {value, p.value_head_dim, 1},
                {g.output_gradient, rows.padded}, false);
  for (int64_t r = 0; r < rows.padded; r += lanes<Real>) {
    const Vec<Real> log_sum_exp = load(g.log_sum_exp + r), delta = load(g.delta + r);
    const Vec<Real> start = signed_distance(rows, r, tile.first);
    Vec<Real> slope_sum = {};
    for (int64_t j = 0; j < tile.count; ++j) {
      const int64_t e = j * rows.padded + r;
      const Vec<Real> probability = exp(load(g.s + e) - log_sum_exp);
      // A probability of 0 has no gradient even where the logit or value of that key is not finite.
      const IntVec<Real> unseen = probability == Real(0);
      Vec<Real> ds = unseen ? Vec<Real>{} : probability * (load(g.dp + e) - delta);
      if (slope_gradients) slope_sum += ds * magnitude(start - Real(j));
      if (g.cap_slope) ds = unseen ? Vec<Real>{} : ds * load(g.cap_slope + e);
      store(g.s + e, probability);
      store(g.dp + e, ds);
    }
    if (slope_gradients) store(slope_gradients + r, load(slope_gradients + r) - slope_sum);
  }
}

}  // namespace
