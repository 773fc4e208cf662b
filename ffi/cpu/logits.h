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

// Where the operand's values begin for the rows of one vector, at the call's first_key. The tile of keys after it will be
// wanted for the same rows: it is asked for while this one is computed.
template <class E>
struct LogitsRows {
  static constexpr int64_t width = lanes<typename E::Real>;

  int64_t there, start[width];

  LogitsRows(const LogitsOperand& operand, const Rows<E>& rows, int64_t first_row, int64_t first_key)
      : there(least(width, rows.count - first_row)) {
    const int64_t bytes = bytes_of(operand.element), next_tile = operand.key_stride ? E::tile_keys * bytes : 0;
    const int64_t all = operand.batch.offset(rows.batch) + first_key * operand.key_stride;
    for (int64_t i = 0; i < there; ++i) {
      const int64_t r = first_row + i;
      start[i] = all + rows.head[r] * operand.head_stride + rows.query[r] * operand.query_stride;
      const char* const next = static_cast<const char*>(operand.data) + start[i] * bytes + next_tile;
      for (int64_t offset = 0; offset < next_tile; offset += 64) __builtin_prefetch(next + offset);
    }
  }
};

// The operand's values for a vector of rows, to[key][row] for `count` keys from the call's first_key on.
template <class E>
void load_logits_columns(const LogitsOperand& operand, const Rows<E>& rows, int64_t first_row, int64_t first_key,
                         int64_t count, typename E::Real* to) {
  using Real = typename E::Real;
  constexpr int64_t width = lanes<Real>;
  constexpr Element own_element = sizeof(Real) == 8 ? Element::f64 : Element::f32;
  const LogitsRows<E> from(operand, rows, first_row, first_key);
  if (from.there < width) memset(to, 0, size_t(count * width) * sizeof(Real));
  bool in_place = operand.element == own_element && operand.key_stride;
  for (int64_t i = 0; i < from.there; ++i) in_place &= from.start[i] == from.start[0] + i * operand.query_stride;
  if (in_place)
    return transpose(to, width, static_cast<const Real*>(operand.data) + from.start[0], operand.query_stride,
                     from.there, count);
  Real values[width * E::tile_keys];
  const int64_t read = operand.key_stride ? count : 1;
  for (int64_t i = 0; i < from.there; ++i) {
    Real* const row = values + i * E::tile_keys;
    load_row(row, operand.data, operand.element, from.start[i], read);
    for (int64_t j = read; j < count; ++j) row[j] = row[0];
  }
  transpose(to, width, values, E::tile_keys, from.there, count);
}

// Calls apply(element of s, values) with the operand's values for a key and a vector of rows. The operand lies row by
// row and is transposed, unless all rows have the same of it.
template <class E, class Apply>
void for_each_logits_vector(const LogitsOperand& operand, const Rows<E>& rows, const View<E>& view, Apply apply) {
  using Real = typename E::Real;
  constexpr int64_t width = lanes<Real>;
  const bool of_all_rows = !operand.query_stride && (!operand.head_stride || rows.head[0] == rows.head[rows.count - 1]);
  Real columns[E::tile_keys * width];
  if (of_all_rows) {
    const int64_t start = logits_index(operand, rows.batch, rows.head[0], 0);
    const int64_t count = least(view.all_end, view.keys.count);
    load_row(columns, operand.data, operand.element, start + (operand.key_stride ? view.keys.first : 0),
             operand.key_stride ? count : 1);
    for (int64_t v = view.first_vec; v < view.last_vec; ++v)
      for (int64_t j = view.begin[v]; j < least(view.end[v], count); ++j)
        apply(j * E::tile_rows + v * width, broadcast(columns[operand.key_stride ? j : 0]));
    return;
  }
  for (int64_t v = view.first_vec; v < view.last_vec; ++v) {
    // Keys beyond the last exist in a tile, for the engine's sake, but not in the operand.
    const int64_t begin = view.begin[v], count = least(view.end[v], view.keys.count) - begin;
    if (v * width >= rows.count || count <= 0) continue;
    load_logits_columns(operand, rows, v * width, view.keys.first + begin, count, columns);
    for (int64_t j = 0; j < count; ++j) apply((begin + j) * E::tile_rows + v * width, load(columns + j * width));
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

// Which of 32 bytes, or of the first `count`, are not 0: one bit each.
JAX_FA4_INLINE uint32_t bits_of_bytes(const uint8_t* from, int64_t count) {
#if defined(__AVX2__)
  if (count >= 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return ~uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, _mm256_setzero_si256())));
  }
#endif
  uint32_t bits = 0;
  for (int64_t j = 0; j < least(count, 32); ++j) bits |= uint32_t(from[j] != 0) << j;
  return bits;
}

// Logits that the mask hides become -inf. A word holds 32 keys of a row: a vector of words is a square of the mask that
// needs no transposition.
template <class E>
void apply_mask(const LogitsOperand& mask, const Rows<E>& rows, const View<E>& view, typename E::Real* s) {
  using Real = typename E::Real;
  constexpr int64_t width = lanes<Real>, word_bits = 32;
  const Vec<Real> nothing = broadcast(Real(minus_infinity));
  const auto bytes = static_cast<const uint8_t*>(mask.data);
  if (!mask.key_stride || !mask.query_stride)
    return for_each_logits_vector(mask, rows, view, [&](int64_t e, Vec<Real> visible) {
      store(s + e, visible != 0 ? load(s + e) : nothing);
    });
  for (int64_t v = view.first_vec; v < view.last_vec; ++v) {
    if (v * width >= rows.count) continue;
    const LogitsRows<E> from(mask, rows, v * width, view.keys.first);
    const int64_t end = least(view.end[v], view.keys.count);
    for (int64_t first = view.begin[v]; first < end; first += word_bits) {
      const int64_t last = least(first + word_bits, end);
      Int<Real> word[width] = {};
      for (int64_t i = 0; i < from.there; ++i)
        word[i] = Int<Real>(int32_t(bits_of_bytes(bytes + from.start[i] + first, last - first)));
      const IntVec<Real> words = load_int<Real>(word);
      for (int64_t j = first; j < last; ++j) {
        const IntVec<Real> visible = (words & Int<Real>(int32_t(uint32_t{1} << (j - first)))) != 0;
        Real* to = s + j * E::tile_rows + v * width;
        store(to, visible ? load(to) : nothing);
      }
    }
  }
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
  if (p.mask) apply_mask(p.mask, rows, view, s);
}

}  // namespace
