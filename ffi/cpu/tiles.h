// A tile of query rows, the keys that each of its rows sees, and how both are read from the call's arrays.
// The only place that knows causal limits, windows, offsets, lengths and which rows are empty.
#pragma once

namespace {

using jax_fa4::LogitsOperand;
using jax_fa4::Operand;
using jax_fa4::Problem;
using jax_fa4::cpu::Plan;
using jax_fa4::cpu::tile_keys;
using jax_fa4::cpu::tile_rows;

JAX_FA4_INLINE int64_t clamped(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }
JAX_FA4_INLINE int64_t least(int64_t a, int64_t b) { return b < a ? b : a; }
JAX_FA4_INLINE int64_t most(int64_t a, int64_t b) { return b > a ? b : a; }

// What one batch entry says about its sequences.
struct Sequences {
  int64_t query_length, key_length, offset;
  const int32_t* query_segments;  // null: one segment
  const int32_t* key_segments;

  JAX_FA4_INLINE bool key_exists(int64_t j) const { return j < key_length && (!key_segments || key_segments[j] >= 0); }
};

JAX_FA4_INLINE const int32_t* segments_of(const Operand& ids, int64_t batch) {
  return ids ? static_cast<const int32_t*>(ids.data) + ids.batch.offset(batch) : nullptr;
}

Sequences sequences_of(const Problem& p, int64_t batch) {
  const auto number = [&](const Operand& operand, int64_t otherwise) {
    return operand ? load_index(operand, operand.batch.offset(batch)) : otherwise;
  };
  return {clamped(number(p.query_seq_lengths, p.query_length), 0, p.query_length),
          clamped(number(p.key_value_seq_lengths, p.key_length), 0, p.key_length),
          number(p.query_offset, 0),
          segments_of(p.query_segment_ids, batch),
          segments_of(p.key_value_segment_ids, batch)};
}

struct KeyTile {
  int64_t first, count;
};

// Rows of one tile. Lanes from `count` to `padded` hold nothing and are never written out.
template <class Real>
struct Rows {
  int64_t batch, key_value_head;
  int64_t count, padded;
  int64_t key_begin, key_end;    // the keys that any row sees
  int64_t full_begin, full_end;  // the keys that every row sees, as far as limits go
  int64_t segment_low, segment_high;

  int64_t head[tile_rows], query[tile_rows], position[tile_rows];
  Int<Real> low[tile_rows], high[tile_rows];  // a row sees the keys low <= j < high
  Int<Real> segment[tile_rows];
  Real slope[tile_rows];

  JAX_FA4_INLINE bool empty(int64_t r) const { return low[r] >= high[r]; }
};

// Rows are numbered queries first, heads within: packed row x is query x / heads of head first_head + x % heads. So a
// tile of a group of heads that share keys spans few positions.
template <class Real>
void describe_rows(Rows<Real>& rows, const Problem& p, const Sequences& at, int64_t batch, int64_t first_head,
                   int64_t heads, int64_t first_row) {
  rows.batch = batch;
  rows.key_value_head = first_head / p.group();
  rows.count = least(tile_rows, p.query_length * heads - first_row);
  rows.padded = padded_to_lanes<Real>(rows.count);
  rows.key_begin = rows.full_end = at.key_length;
  rows.key_end = rows.full_begin = 0;
  rows.segment_low = INT32_MAX;
  rows.segment_high = -1;
  for (int64_t r = 0; r < rows.padded; ++r) {
    const bool exists = r < rows.count;
    const int64_t query = exists ? (first_row + r) / heads : 0;
    const int64_t head = exists ? first_head + (first_row + r) % heads : first_head;
    const int64_t segment = at.query_segments && exists ? at.query_segments[query] : 0;
    const int64_t position = query + at.offset;
    int64_t low = p.window_left < 0 ? 0 : clamped(position - p.window_left, 0, at.key_length);
    int64_t high = p.window_right < 0 ? at.key_length : clamped(position + p.window_right + 1, 0, at.key_length);
    if (!exists || query >= at.query_length || segment < 0 || low >= high) low = high = 0;

    rows.query[r] = query;
    rows.head[r] = head;
    rows.position[r] = position;
    rows.low[r] = Int<Real>(low);
    rows.high[r] = Int<Real>(high);
    rows.segment[r] = Int<Real>(segment);
    rows.slope[r] = p.alibi_slopes ? load_one<Real>(p.alibi_slopes, p.alibi_slopes.batch.offset(batch) + head) : 0;
    if (!exists) continue;
    rows.full_begin = most(rows.full_begin, low);
    rows.full_end = least(rows.full_end, high);
    if (low == high) continue;
    rows.key_begin = least(rows.key_begin, low);
    rows.key_end = most(rows.key_end, high);
    rows.segment_low = least(rows.segment_low, segment);
    rows.segment_high = most(rows.segment_high, segment);
  }
}

enum class Sight { none, partial, full };

// How much of a key tile the rows see by limits and segments (bias and mask apart).
template <class Real>
Sight sight(const Rows<Real>& rows, const Sequences& at, KeyTile tile) {
  const int64_t end = tile.first + tile.count;
  if (tile.first >= rows.key_end || end <= rows.key_begin) return Sight::none;
  const bool inside = rows.full_begin <= tile.first && end <= rows.full_end;
  if (!at.key_segments) return inside ? Sight::full : Sight::partial;
  int32_t low = INT32_MAX, high = -1;
  for (int64_t j = tile.first; j < end; ++j) {
    const int32_t id = at.key_segments[j];
    low = id >= 0 && id < low ? id : low;
    high = id > high ? id : high;
  }
  if (high < rows.segment_low || low > rows.segment_high) return Sight::none;
  bool same = low == high && rows.segment_low == rows.segment_high;
  for (int64_t j = tile.first; j < end; ++j) same &= at.key_segments[j] >= 0;
  return inside && same ? Sight::full : Sight::partial;
}

JAX_FA4_INLINE int64_t row_index(const Operand& operand, int64_t batch, int64_t token, int64_t heads, int64_t head,
                                 int64_t dim) {
  return operand.batch.offset(batch) + (token * heads + head) * dim;
}

// Row r of the tile to to[r * stride]. Empty rows become 0: whatever a caller left in padding must not reach a sum.
template <class Real>
void load_query_rows(Real* to, int64_t stride, const Operand& from, const Rows<Real>& rows, int64_t heads, int64_t dim) {
  for (int64_t r = 0; r < rows.count; ++r, to += stride) {
    if (rows.empty(r))
      memset(to, 0, size_t(dim) * sizeof(Real));
    else
      load_row(to, from.data, from.element, row_index(from, rows.batch, rows.query[r], heads, rows.head[r], dim), dim);
    memset(to + dim, 0, size_t(stride - dim) * sizeof(Real));
  }
}

template <class Real>
void store_query_rows(const Operand& to, const Real* from, int64_t stride, const Rows<Real>& rows, int64_t heads,
                      int64_t dim) {
  for (int64_t r = 0; r < rows.count; ++r)
    store_row(to.data, to.element, row_index(to, rows.batch, rows.query[r], heads, rows.head[r], dim),
              from + r * stride, dim);
}

// Key j of the tile to to[(j - first) * stride], keys that do not exist as 0.
template <class Real>
void load_keys(Real* to, int64_t stride, const Operand& from, const Sequences& at, int64_t batch, KeyTile tile,
               int64_t heads, int64_t head, int64_t dim) {
  for (int64_t j = tile.first; j < tile.first + tile.count; ++j, to += stride) {
    if (at.key_exists(j))
      load_row(to, from.data, from.element, row_index(from, batch, j, heads, head, dim), dim);
    else
      memset(to, 0, size_t(dim) * sizeof(Real));
  }
}

// to[d][r] = factor * from[r][d]; lanes beyond the rows become 0.
template <class Real>
void transpose(Real* to, int64_t to_stride, const Real* from, int64_t from_stride, int64_t rows, int64_t dim,
               Real factor) {
  for (int64_t d = 0; d < dim; ++d, to += to_stride) {
    for (int64_t r = 0; r < rows; ++r) to[r] = factor * from[r * from_stride + d];
    for (int64_t r = rows; r < to_stride; ++r) to[r] = 0;
  }
}

}  // namespace
