// The masked logits of a tile: products, bias, soft cap, ALiBi, limits, segments, mask.
// Read by forward, backward and the gradient of bias alike. A tile of logits is s[key][row], rows E::tile_rows apart; a
// vector of rows holds its logits for the keys of the view and nothing elsewhere.
#pragma once

namespace {

constexpr double minus_infinity = -__builtin_inf();

JAX_FA4_INLINE int64_t logits_index(const LogitsOperand& operand, int64_t batch, int64_t head, int64_t query) {
  return operand.batch.offset(batch) + head * operand.head_stride + query * operand.query_stride;
}

// Calls apply(v, j, element of s) for every vector of logits that is computed.
template <class E, class Apply>
JAX_FA4_INLINE void for_each_vector(const View<E>& view, Apply apply) {
  for (int64_t v = view.first_vec; v < view.last_vec; ++v)
    for (int64_t j = view.begin[v]; j < view.end[v]; ++j)
      apply(v, j, j * E::tile_rows + v * lanes<typename E::Real>);
}

// Calls apply(element of s, values) with the operand's values for a key and a vector of rows. The operand lies row by
// row: squares of it are transposed in registers.
template <class E, class Apply>
void for_each_logits_vector(const LogitsOperand& operand, const Rows<E>& rows, const View<E>& view, Apply apply) {
  using Real = typename E::Real;
  constexpr int64_t width = lanes<Real>;
  Real values[width][E::tile_keys];
  for (int64_t v = view.first_vec; v < view.last_vec; ++v) {
    // Keys beyond the last exist in a tile, for the engine's sake, but not in the operand.
    const int64_t begin = view.begin[v], count = least(view.end[v], view.keys.count) - begin;
    const int64_t read = operand.key_stride ? count : 1;
    for (int64_t i = 0; i < width; ++i) {
      const int64_t r = least(v * width + i, rows.count - 1);
      const int64_t start = logits_index(operand, rows.batch, rows.head[r], rows.query[r]);
      load_row(values[i], operand.data, operand.element,
               start + (operand.key_stride ? view.keys.first + begin : 0), read);
    }
    for (int64_t j = 0; j < count; j += width) {
      Vec<Real> square[width];
      for (int64_t i = 0; i < width; ++i) square[i] = operand.key_stride ? load(values[i] + j) : broadcast(values[i][0]);
      transpose_square<Real>(square);
      for (int64_t i = 0; i < width && j + i < count; ++i)
        apply((begin + j + i) * E::tile_rows + v * width, square[i]);
    }
  }
}

// |position - key| of ALiBi, for the lanes from r on: first key's signed distance, then one less with each key.
// Taken relative to the tile, it is exact in float32 up to 2^24.
template <class E>
JAX_FA4_INLINE Vec<typename E::Real> signed_distance(const Rows<E>& rows, int64_t r, int64_t key) {
  using Real = typename E::Real;
  Vec<Real> d;
  for (int64_t i = 0; i < lanes<Real>; ++i) d[i] = Real(rows.position[r + i] - key);
  return d;
}

// Soft cap (y = cap tanh(x / cap)) and, where `cap_slope` is not null, its derivative 1 - (y / cap)^2.
template <class E>
void apply_soft_cap(const Problem& p, const View<E>& view, typename E::Real* s, typename E::Real* cap_slope) {
  using Real = typename E::Real;
  const Real cap = Real(p.soft_cap), inverse = Real(1 / p.soft_cap);
  for_each_vector(view, [&](int64_t, int64_t, int64_t e) {
    const Vec<Real> t = tanh(load(s + e) * inverse);
    store(s + e, t * cap);
    if (cap_slope) store(cap_slope + e, 1 - t * t);
  });
}

template <class E>
void apply_alibi(const Rows<E>& rows, const View<E>& view, typename E::Real* s) {
  using Real = typename E::Real;
  for (int64_t v = view.first_vec; v < view.last_vec; ++v) {
    const int64_t r = v * lanes<Real>;
    const Vec<Real> slope = load(rows.slope + r);
    const Vec<Real> start = signed_distance(rows, r, view.keys.first);
    for (int64_t j = view.begin[v]; j < view.end[v]; ++j) {
      Real* at = s + j * E::tile_rows + r;
      store(at, load(at) - slope * magnitude(start - Real(j)));
    }
  }
}

template <class E>
void apply_limits(const Rows<E>& rows, const Sequences& at, const View<E>& view, typename E::Real* s) {
  using Real = typename E::Real;
  const Vec<Real> nothing = broadcast(Real(minus_infinity));
  for (int64_t v = view.first_vec; v < view.last_vec; ++v) {
    const int64_t r = v * lanes<Real>;
    const IntVec<Real> low = load_int<Real>(rows.low + r), high = load_int<Real>(rows.high + r);
    const IntVec<Real> segment = load_int<Real>(rows.segment + r);
    for (int64_t j = view.begin[v]; j < view.end[v]; ++j) {
      const int64_t key = view.keys.first + j;
      IntVec<Real> visible = (low <= Int<Real>(key)) & (high > Int<Real>(key));
      if (at.key_segments && j < view.keys.count) visible &= segment == Int<Real>(at.key_segments[key]);
      Real* to = s + j * E::tile_rows + r;
      store(to, visible ? load(to) : nothing);
    }
  }
}

// Whether logits are more than products: then they are scaled before the softmax, else within it.
JAX_FA4_INLINE bool has_terms(const Problem& p) {
  return p.bias || p.soft_cap > 0 || p.alibi_slopes || p.sinks || p.scale == 0;
}

// What logits(...) must be multiplied with to be natural logarithms of probabilities, up to a term of the row.
template <class E>
JAX_FA4_INLINE typename E::Real logits_unit(const Problem& p) {
  return typename E::Real(E::scales_query || has_terms(p) ? 1 : __builtin_fabs(p.scale));
}

// What the packed query is multiplied with. Scales of bfloat16 queries would round them; a sign does not.
template <class E>
JAX_FA4_INLINE typename E::Real query_factor(const Problem& p) {
  return typename E::Real(E::scales_query ? p.scale : p.scale < 0 ? -1 : 1);
}

// The logits of the view, -inf where a row does not see a key. `query` is packed by pack_right_transposed.
template <class E>
void logits(const Problem& p, const Sequences& at, const Rows<E>& rows, const View<E>& view,
            const typename E::Item* query, const typename E::Item* key, typename E::Real* s,
            typename E::Real* cap_slope) {
  using Real = typename E::Real;
  const int64_t block = E::left_block(p.head_dim);
  for_each_run(view, [&](int64_t first, int64_t last, int64_t first_vec, int64_t last_vec) {
    const int64_t r = first_vec * lanes<Real>;
    E::multiply(last - first, (last_vec - first_vec) * lanes<Real>, p.head_dim, s + first * E::tile_rows + r,
                E::tile_rows, key + first / E::left_rows * block, block, query + r, E::tile_rows, false);
  });
  if (!E::scales_query && has_terms(p)) {
    const Real scale = Real(__builtin_fabs(p.scale));
    for_each_vector(view, [&](int64_t, int64_t, int64_t e) { store(s + e, load(s + e) * scale); });
  }
  if (p.bias)
    for_each_logits_vector(p.bias, rows, view,
                           [&](int64_t e, Vec<Real> bias) { store(s + e, load(s + e) + bias); });
  if (p.soft_cap > 0) apply_soft_cap(p, view, s, cap_slope);
  if (p.alibi_slopes) apply_alibi(rows, view, s);
  if (view.masked) apply_limits(rows, at, view, s);
  if (p.mask)
    for_each_logits_vector(p.mask, rows, view, [&](int64_t e, Vec<Real> visible) {
      store(s + e, visible != 0 ? load(s + e) : broadcast(Real(minus_infinity)));
    });
}

}  // namespace
