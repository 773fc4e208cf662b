// A tile of query rows, the keys that each of its rows sees, and how both are read from the call's arrays.
// The only place that knows causal limits, windows, offsets, lengths and which rows are empty.
#pragma once

namespace {

using jax_fa4::LogitsOperand;
using jax_fa4::Operand;
using jax_fa4::Problem;
using jax_fa4::bytes_of;
using jax_fa4::cpu::Plan;

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

// A run of keys within one tile of them, which begins at a multiple of the tile's size.
struct KeyTile {
  int64_t first, count;
};

// Rows of one tile. Lanes from `count` to `padded` hold nothing and are never written out.
template <class E>
struct Rows {
  using Real = typename E::Real;
  static constexpr int64_t room = E::tile_rows, vecs = room / lanes<Real>;

  int64_t batch, key_value_head;
  int64_t count, padded;
  int64_t key_begin, key_end;                // the keys that any row sees
  int64_t full_begin[vecs], full_end[vecs];  // the keys that every row of a vector sees, as far as limits go
  int64_t vec_begin[vecs], vec_end[vecs];    // the keys that any row of a vector sees
  int64_t segment_low, segment_high;

  int64_t head[room], query[room], position[room];
  Int<Real> low[room], high[room];  // a row sees the keys low <= j < high
  Int<Real> segment[room];
  Real slope[room];

  JAX_FA4_INLINE bool empty(int64_t r) const { return low[r] >= high[r]; }
};

// Rows are numbered queries first, heads within: packed row x is query x / heads of head first_head + x % heads. So a
// tile of a group of heads that share keys spans few positions.
template <class E>
void describe_rows(Rows<E>& rows, const Problem& p, const Sequences& at, int64_t batch, int64_t first_head,
                   int64_t heads, int64_t first_row) {
  using Real = typename E::Real;
  rows.batch = batch;
  rows.key_value_head = first_head / p.group();
  rows.count = least(E::tile_rows, p.query_length * heads - first_row);
  rows.padded = rounded_up(rows.count, E::row_step);
  rows.key_begin = at.key_length;
  rows.key_end = 0;
  rows.segment_low = INT32_MAX;
  rows.segment_high = -1;
  const int64_t slopes = p.alibi_slopes ? p.alibi_slopes.batch.offset(batch) : 0;
  int64_t query = first_row / heads, head = first_row % heads;
  for (int64_t r = 0; r < rows.padded; ++r) {
    const int64_t v = r / E::row_step * (E::row_step / lanes<Real>);
    if (r % E::row_step == 0) {
      rows.vec_begin[v] = rows.full_end[v] = at.key_length;
      rows.vec_end[v] = rows.full_begin[v] = 0;
    }
    const bool exists = r < rows.count;
    if (!exists) query = head = 0;
    const int64_t segment = at.query_segments && exists ? at.query_segments[query] : 0;
    const int64_t position = query + at.offset;
    int64_t low = p.window_left < 0 ? 0 : clamped(position - p.window_left, 0, at.key_length);
    int64_t high = p.window_right < 0 ? at.key_length : clamped(position + p.window_right + 1, 0, at.key_length);
    if (!exists || query >= at.query_length || segment < 0 || low >= high) low = high = 0;

    rows.query[r] = query;
    rows.head[r] = first_head + head;
    rows.position[r] = position;
    rows.low[r] = Int<Real>(low);
    rows.high[r] = Int<Real>(high);
    rows.segment[r] = Int<Real>(segment);
    rows.slope[r] = p.alibi_slopes ? load_one<Real>(p.alibi_slopes, slopes + first_head + head) : 0;
    if (!exists) continue;
    if (++head == heads) head = 0, ++query;
    rows.full_begin[v] = most(rows.full_begin[v], low);
    rows.full_end[v] = least(rows.full_end[v], high);
    if (low == high) continue;
    rows.vec_begin[v] = least(rows.vec_begin[v], low);
    rows.vec_end[v] = most(rows.vec_end[v], high);
    rows.key_begin = least(rows.key_begin, low);
    rows.key_end = most(rows.key_end, high);
    rows.segment_low = least(rows.segment_low, segment);
    rows.segment_high = most(rows.segment_high, segment);
  }
  // All vectors of a step of the engine's rows see what any of them sees.
  for (int64_t v = 0; v < rows.padded / lanes<Real>; ++v) {
    const int64_t of_step = v / (E::row_step / lanes<Real>) * (E::row_step / lanes<Real>);
    rows.vec_begin[v] = rows.vec_begin[of_step], rows.vec_end[v] = rows.vec_end[of_step];
    rows.full_begin[v] = rows.full_begin[of_step], rows.full_end[v] = rows.full_end[of_step];
  }
}

enum class Sight { none, partial, full };

// How much of a run of keys the segments let the rows see.
template <class E>
Sight sight_by_segments(const Rows<E>& rows, const Sequences& at, KeyTile keys) {
  if (!at.key_segments) return Sight::full;
  const int64_t end = keys.first + keys.count;
  int32_t low = INT32_MAX, high = -1, least_id = INT32_MAX;
  for (int64_t j = keys.first; j < end; ++j) {
    const int32_t id = at.key_segments[j];
    low = id >= 0 && id < low ? id : low;
    high = id > high ? id : high;
    least_id = id < least_id ? id : least_id;
  }
  if (high < rows.segment_low || low > rows.segment_high) return Sight::none;
  const bool same = least_id == high && rows.segment_low == rows.segment_high;
  return same ? Sight::full : Sight::partial;
}

// What a tile of rows computes of a tile of keys: each vector of rows the keys begin <= j < end, counted from the tile's
// first, in whole steps of the engine. Limits rise from row to row, so both rise from vector to vector.
template <class E>
struct View {
  static constexpr int64_t vecs = Rows<E>::vecs;

  KeyTile keys;
  int64_t first_vec, last_vec;       // first_vec <= v < last_vec: those that see anything; none where they are equal
  int64_t begin[vecs], end[vecs];
  int64_t all_begin, all_end;        // of any vector
  int64_t common_begin, common_end;  // of every one of them; begin >= end where there is none
  bool masked;                       // some of what is computed is not seen

  JAX_FA4_INLINE bool nothing() const { return first_vec == last_vec; }
};

template <class E>
View<E> view_of(const Rows<E>& rows, const Sequences& at, KeyTile keys) {
  View<E> view = {keys, View<E>::vecs, 0, {}, {}, E::tile_keys, 0, 0, E::tile_keys, false};
  const int64_t first = most(0, rows.key_begin - keys.first), last = least(keys.count, rows.key_end - keys.first);
  const Sight segments = first < last ? sight_by_segments(rows, at, {keys.first + first, last - first}) : Sight::none;
  if (segments == Sight::none) return view.first_vec = 0, view;
  view.masked = segments == Sight::partial;
  for (int64_t v = 0; v < rows.padded / lanes<typename E::Real>; ++v) {
    const int64_t begin = rounded_down(most(0, rows.vec_begin[v] - keys.first), E::key_step);
    const int64_t end = rounded_up(least(keys.count, rows.vec_end[v] - keys.first), E::key_step);
    if (begin >= end) continue;
    view.masked |= rows.full_begin[v] > keys.first + begin || rows.full_end[v] < keys.first + end;
    view.begin[v] = begin;
    view.end[v] = end;
    view.first_vec = least(view.first_vec, v);
    view.last_vec = v + 1;
    view.all_begin = least(view.all_begin, begin);
    view.all_end = most(view.all_end, end);
    view.common_begin = most(view.common_begin, begin);
    view.common_end = least(view.common_end, end);
  }
  view.first_vec = least(view.first_vec, view.last_vec);
  // A vector without rows to see anything takes part where it lies between two that do, under the mask.
  for (int64_t v = view.first_vec; v < view.last_vec; ++v)
    if (view.begin[v] == view.end[v]) {
      view.begin[v] = view.all_begin, view.end[v] = view.all_end;
      view.masked = true;
    }
  return view;
}

// Calls apply(first, last, first_vec, last_vec) for runs of keys (whole blocks of the engine's) whose vectors are the
// same: near the diagonal a block of keys is seen by some of the rows only.
template <class E, class Apply>
JAX_FA4_INLINE void for_each_run(const View<E>& view, Apply apply) {
  int64_t start = view.all_begin, run_first = 0, run_last = 0;
  for (int64_t j = start;; j += E::left_rows) {
    int64_t first = View<E>::vecs, last = 0;
    if (j < view.all_end)
      for (int64_t v = view.first_vec; v < view.last_vec; ++v)
        if (view.begin[v] < j + E::left_rows && j < view.end[v]) first = least(first, v), last = v + 1;
    if (first == run_first && last == run_last && j < view.all_end) continue;
    if (run_first < run_last) apply(start, j, run_first, run_last);
    if (j >= view.all_end) return;
    start = j, run_first = first, run_last = last;
  }
}

// Calls apply(begin, end, first_vec, last_vec) for runs along the depth of keys: first what all vectors have in common,
// then what each has beyond it. Every key that a vector sees is in one of them.
template <class E, class Apply>
JAX_FA4_INLINE void for_each_depth(const View<E>& view, Apply apply) {
  const bool common = view.common_begin < view.common_end;
  if (common) apply(view.common_begin, view.common_end, view.first_vec, view.last_vec);
  for (int64_t v = view.first_vec; v < view.last_vec; ++v) {
    const int64_t left_end = common ? view.common_begin : view.end[v];
    if (view.begin[v] < left_end) apply(view.begin[v], left_end, v, v + 1);
    if (common && view.common_end < view.end[v]) apply(view.common_end, view.end[v], v, v + 1);
  }
}

// Index of the first element of a token's head, in a batch entry that begins at batch_offset.
JAX_FA4_INLINE int64_t row_index(int64_t batch_offset, int64_t token, int64_t heads, int64_t head, int64_t dim) {
  return batch_offset + (token * heads + head) * dim;
}

// Rows of a head are heads * dim apart, in pieces too short for hardware to foresee: they are asked for some rows ahead.
constexpr int64_t rows_ahead = 16;

JAX_FA4_INLINE void prefetch_row(const Operand& from, int64_t index, int64_t dim) {
  const int64_t bytes = bytes_of(from.element);
  const char* row = static_cast<const char*>(from.data) + index * bytes;
  for (int64_t offset = 0; offset < dim * bytes; offset += 64) __builtin_prefetch(row + offset);
}

// Row r of the tile to to[r * stride]. Empty rows become 0: whatever a caller left in padding must not reach a sum.
template <class E, class Real>
void load_query_rows(Real* to, int64_t stride, const Operand& from, const Rows<E>& rows, int64_t heads, int64_t dim) {
  const int64_t start = from.batch.offset(rows.batch);
  for (int64_t r = 0; r < least(rows.count, rows_ahead); ++r)
    prefetch_row(from, row_index(start, rows.query[r], heads, rows.head[r], dim), dim);
  for (int64_t r = 0; r < rows.count; ++r, to += stride) {
    if (const int64_t next = r + rows_ahead; next < rows.count)
      prefetch_row(from, row_index(start, rows.query[next], heads, rows.head[next], dim), dim);
    if (rows.empty(r))
      memset(to, 0, size_t(dim) * sizeof(Real));
    else
      load_row(to, from.data, from.element, row_index(start, rows.query[r], heads, rows.head[r], dim), dim);
    if (stride > dim) memset(to + dim, 0, size_t(stride - dim) * sizeof(Real));
  }
}

template <class E, class Real>
void store_query_rows(const Operand& to, const Real* from, int64_t stride, const Rows<E>& rows, int64_t heads,
                      int64_t dim) {
  const int64_t start = to.batch.offset(rows.batch);
  for (int64_t r = 0; r < rows.count; ++r)
    store_row(to.data, to.element, row_index(start, rows.query[r], heads, rows.head[r], dim), from + r * stride, dim);
}

// Key j of the tile to to[(j - first) * stride], keys that do not exist as 0.
template <class Real>
void load_keys(Real* to, int64_t stride, const Operand& from, const Sequences& at, int64_t batch, KeyTile tile,
               int64_t heads, int64_t head, int64_t dim) {
  const int64_t start = from.batch.offset(batch);
  for (int64_t j = tile.first; j < tile.first + tile.count; ++j, to += stride) {
    if (j + rows_ahead < tile.first + tile.count)
      prefetch_row(from, row_index(start, j + rows_ahead, heads, head, dim), dim);
    if (at.key_exists(j))
      load_row(to, from.data, from.element, row_index(start, j, heads, head, dim), dim);
    else
      memset(to, 0, size_t(dim) * sizeof(Real));
    if (stride > dim) memset(to + dim, 0, size_t(stride - dim) * sizeof(Real));
  }
}

}  // namespace
