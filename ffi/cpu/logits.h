// The masked logits of a tile: products, bias, soft cap, ALiBi, limits, segments, mask.
// Read by forward, backward and the gradient of bias alike.
#pragma once

namespace {

constexpr double minus_infinity = -__builtin_inf();

JAX_FA4_INLINE int64_t logits_index(const LogitsOperand& operand, int64_t batch, int64_t head, int64_t query) {
  return operand.batch.offset(batch) + head * operand.head_stride + query * operand.query_stride;
}

// Calls apply(row, values) with the operand's values for the keys of the tile, row by row.
template <class Real, class Apply>
void for_each_logits_row(const LogitsOperand& operand, const Rows<Real>& rows, KeyTile tile, Apply apply) {
  Real values[tile_keys];
  for (int64_t r = 0; r < rows.count; ++r) {
    const int64_t start = logits_index(operand, rows.batch, rows.head[r], rows.query[r]);
    if (operand.key_stride) {
      load_row(values, operand.data, operand.element, start + tile.first, tile.count);
    } else {
      load_row(values, operand.data, operand.element, start, 1);
      for (int64_t j = 1; j < tile.count; ++j) values[j] = values[0];
    }
    apply(r, values);
  }
}

template <class Real>
void add_bias(const Problem& p, const Rows<Real>& rows, KeyTile tile, Real* s) {
  for_each_logits_row(p.bias, rows, tile, [&](int64_t r, const Real* bias) {
    for (int64_t j = 0; j < tile.count; ++j) s[j * rows.padded + r] += bias[j];
  });
}

template <class Real>
void apply_mask(const Problem& p, const Rows<Real>& rows, KeyTile tile, Real* s) {
  for_each_logits_row(p.mask, rows, tile, [&](int64_t r, const Real* visible) {
    for (int64_t j = 0; j < tile.count; ++j)
      s[j * rows.padded + r] = visible[j] != 0 ? s[j * rows.padded + r] : Real(minus_infinity);
  });
}

// |position - key| of ALiBi, for the lanes from r on: first key's signed distance, then one less with each key.
// Taken relative to the tile, it is exact in float32 up to 2^24.
template <class Real>
JAX_FA4_INLINE Vec<Real> signed_distance(const Rows<Real>& rows, int64_t r, int64_t key) {
  Vec<Real> d;
  for (int64_t i = 0; i < lanes<Real>; ++i) d[i] = Real(rows.position[r + i] - key);
  return d;
}

// Soft cap (y = cap tanh(x / cap)) and, where `cap_slope` is not null, its derivative 1 - (y / cap)^2.
template <class Real>
void apply_soft_cap(const Problem& p, int64_t elements, Real* s, Real* cap_slope) {
  const Real cap = Real(p.soft_cap), inverse = Real(1 / p.soft_cap);
  for (int64_t e = 0; e < elements; e += lanes<Real>) {
    const Vec<Real> t = tanh(load(s + e) * inverse);
    store(s + e, t * cap);
    if (cap_slope) store(cap_slope + e, 1 - t * t);
  }
}

template <class Real>
void apply_alibi(const Rows<Real>& rows, KeyTile tile, Real* s) {
  for (int64_t r = 0; r < rows.padded; r += lanes<Real>) {
    const Vec<Real> slope = load(rows.slope + r);
    const Vec<Real> start = signed_distance(rows, r, tile.first);
    for (int64_t j = 0; j < tile.count; ++j) {
      Real* at = s + j * rows.padded + r;
      store(at, load(at) - slope * magnitude(start - Real(j)));
    }
  }
}

template <class Real>
void apply_limits(const Rows<Real>& rows, const Sequences& at, KeyTile tile, Real* s) {
  const Vec<Real> nothing = broadcast(Real(minus_infinity));
  for (int64_t r = 0; r < rows.padded; r += lanes<Real>) {
    const IntVec<Real> low = load_int<Real>(rows.low + r), high = load_int<Real>(rows.high + r);
    const IntVec<Real> segment = load_int<Real>(rows.segment + r);
    for (int64_t j = 0; j < tile.count; ++j) {
      const Int<Real> key = Int<Real>(tile.first + j);
      IntVec<Real> visible = (low <= key) & (high > key);
      if (at.key_segments) visible &= segment == Int<Real>(at.key_segments[key]);
      Real* to = s + j * rows.padded + r;
      store(to, visible ? load(to) : nothing);
    }
  }
}

// s[j][r], j within the tile, r within the rows: the logits; -inf where row r does not see key j.
// `query` is transposed, [head_dim][padded], and scaled; `key` is [count][head_dim].
template <class Real>
void logits(const Problem& p, const Sequences& at, const Rows<Real>& rows, KeyTile tile, Sight seen, const Real* query,
            const Real* key, Real* s, Real* cap_slope) {
  product<Real>(tile.count, rows.padded, p.head_dim, {s, rows.padded}, {key, p.head_dim, 1}, {query, rows.padded},
                false);
  if (p.bias) add_bias(p, rows, tile, s);
  if (p.soft_cap > 0) apply_soft_cap(p, tile.count * rows.padded, s, cap_slope);
  if (p.alibi_slopes) apply_alibi(rows, tile, s);
  if (seen == Sight::partial) apply_limits(rows, at, tile, s);
  if (p.mask) apply_mask(p, rows, tile, s);
}

}  // namespace
