// Forward pass of one tile of rows: for each tile of keys logits, online softmax, and the product with the values.
#pragma once

namespace {

using jax_fa4::cpu::most_tiles_of_a_task;

// What a task holds of one of its tiles of rows.
template <class E>
struct ForwardRows {
  Rows<E> rows;
  SoftmaxState<E> state;
  typename E::Item* query;

  void take(Carver& carver, const Problem& p) {
    state.take(carver, p);
    query = carver.take<typename E::Item>(E::items(p.head_dim) * E::tile_rows);
  }
};

template <class E>
struct ForwardScratch {
  using Real = typename E::Real;
  using Item = typename E::Item;

  ForwardRows<E> tiles[most_tiles_of_a_task];
  PackScratch<E> packing;
  Item *own_tile, *probabilities;
  Real *buffer, *s;  // buffer: rows as they are read or written

  ForwardScratch(Carver& carver, const Problem& p, const Plan& plan) : packing(carver, p) {
    for (int64_t i = 0; i < plan.tiles_of_a_task; ++i) tiles[i].take(carver, p);
    own_tile = plan.packed_tasks ? nullptr : carver.take<Item>(PackedTile<E>::size(p, Pass::forward));
    buffer = carver.take<Real>(E::tile_rows * most(p.head_dim, p.value_head_dim));
    s = carver.take<Real>(E::tile_keys * E::tile_rows);
    probabilities = E::in_place ? reinterpret_cast<Item*>(s)
                                : carver.take<Item>(E::items(E::tile_keys) * E::tile_rows);
  }
};

template <class E>
void load_rows(const Problem& p, bool with_sink, ForwardRows<E>& tile, ForwardScratch<E>& scratch) {
  load_query_rows(scratch.buffer, p.head_dim, p.query, tile.rows, p.query_heads, p.head_dim);
  E::pack_right_transposed(tile.query, scratch.buffer, p.head_dim, tile.rows.count, p.head_dim, query_factor<E>(p));
  start_softmax(p, tile.rows, with_sink, tile.state);
}

template <class E>
void finish_rows(const Problem& p, const Rows<E>& rows, SoftmaxState<E>& state, ForwardScratch<E>& scratch) {
  using Real = typename E::Real;
  const int64_t start = p.log_sum_exp.batch.offset(rows.batch);
  for (int64_t r = 0; r < rows.count; ++r) {
    const Real sum = state.sum[r];
    const Real lse = Real(sum == 0 ? minus_infinity : log_sum_exp_of(p, state, r));
    store_row(p.log_sum_exp.data, p.log_sum_exp.element, start + rows.head[r] * p.query_length + rows.query[r], &lse,
              1);
    state.sum[r] = sum == 0 ? 0 : 1 / sum;
  }
  const int64_t dim = p.value_head_dim;
  for (int64_t r = 0; r < rows.padded; r += lanes<Real>) {
    const Vec<Real> factor = load(state.sum + r);
    Real* at = state.output + r;
    for (int64_t d = 0; d < dim; ++d, at += E::tile_rows) store(at, load(at) * factor);
  }
  transpose(scratch.buffer, dim, state.output, E::tile_rows, dim, rows.count);
  store_query_rows(p.output, scratch.buffer, dim, rows, p.query_heads, dim);
}

// Some tiles of rows and a part of the keys, as tasks are numbered: the longest rows of a causal call first, and all
// heads of a part before the next part, for they lie in the same pages of memory. Heads that share a bias or a mask take
// the same rows of it one after the other.
struct ForwardTask {
  int64_t batch, part, head, first_tile, tiles;

  ForwardTask(const Problem& p, const Plan& plan, int64_t task) {
    batch = task / plan.row_groups / p.key_value_heads / plan.key_parts;
    part = task / plan.row_groups / p.key_value_heads % plan.key_parts;
    const int64_t in_part = task % (plan.row_groups * p.key_value_heads);
    const bool heads_share = (p.bias && !p.bias.head_stride) || (p.mask && !p.mask.head_stride);
    head = heads_share ? in_part % p.key_value_heads : in_part / plan.row_groups;
    const int64_t group = heads_share ? in_part / p.key_value_heads : in_part % plan.row_groups;
    first_tile = (plan.row_groups - 1 - group) * plan.tiles_of_a_task;
    tiles = least(plan.tiles_of_a_task, plan.row_tiles - first_tile);
  }
};

// What one part of the keys leaves of a tile of rows: sums relative to the rows' references among them.
template <class E>
struct Part {
  using Real = typename E::Real;
  Real *reference, *sum, *output;

  static int64_t size(const Problem& p) { return E::tile_rows * (p.value_head_dim + 2); }

  Part(const Problem& p, const Plan& plan, int64_t batch, int64_t head, int64_t tile, int64_t part) {
    const int64_t index = ((batch * p.key_value_heads + head) * plan.row_tiles + tile) * plan.key_parts + part;
    reference = static_cast<Real*>(plan.forward_parts) + index * size(p);
    sum = reference + E::tile_rows;
    output = sum + E::tile_rows;
  }
};

template <class E>
void store_part(const Problem& p, const Rows<E>& rows, const SoftmaxState<E>& state, const Part<E>& part) {
  const size_t bytes = size_t(rows.padded) * sizeof(typename E::Real);
  memcpy(part.reference, state.reference, bytes);
  memcpy(part.sum, state.sum, bytes);
  for (int64_t d = 0; d < p.value_head_dim; ++d)
    memcpy(part.output + d * E::tile_rows, state.output + d * E::tile_rows, bytes);
}

// One tile of keys: output += values x probabilities, both transposed.
template <class E>
void add_key_tile(const Problem& p, const Sequences& at, const View<E>& view, const PackedTile<E>& packed,
                  ForwardRows<E>& tile, ForwardScratch<E>& scratch) {
  using Real = typename E::Real;
  logits(p, at, tile.rows, view, tile.query, packed.key, scratch.s, static_cast<Real*>(nullptr));
  online_softmax(p, view, scratch.s, scratch.probabilities, tile.state);
  for_each_depth(view, [&](int64_t begin, int64_t end, int64_t first_vec, int64_t last_vec) {
    const int64_t r = first_vec * lanes<Real>;
    E::multiply(p.value_head_dim, (last_vec - first_vec) * lanes<Real>, end - begin, tile.state.output + r,
                E::tile_rows, packed.value_transposed + E::left_offset(begin), E::left_block(packed.room),
                scratch.probabilities + E::items(begin) * E::tile_rows + r, E::tile_rows, true);
  });
}

// All tiles of a task against the keys of its part, whole tiles of them.
template <class E>
void add_keys(const Problem& p, const Plan& plan, const Sequences& at, const ForwardTask& own,
              ForwardScratch<E>& scratch) {
  int64_t begin = p.key_length, end = 0;
  for (int64_t i = 0; i < own.tiles; ++i) {
    begin = least(begin, scratch.tiles[i].rows.key_begin);
    end = most(end, scratch.tiles[i].rows.key_end);
  }
  begin = most(rounded_down(begin, E::tile_keys), own.part * plan.keys_of_a_part);
  end = least(end, (own.part + 1) * plan.keys_of_a_part);
  for (int64_t first = begin; first < end; first += E::tile_keys) {
    const KeyTile keys = {first, least(E::tile_keys, p.key_length - first)};
    PackedTile<E> packed;
    for (int64_t i = 0; i < own.tiles; ++i) {
      const View<E> view = view_of(scratch.tiles[i].rows, at, keys);
      if (view.nothing()) continue;
      if (!packed.key)
        packed = packed_tile(p, plan, Pass::forward, at, own.batch, own.head, keys, scratch.own_tile, scratch.packing);
      add_key_tile(p, at, view, packed, scratch.tiles[i], scratch);
    }
  }
}

template <class E>
void forward_task(const Problem& p, const Plan& plan, int64_t task, void* memory) {
  Carver carver(memory);
  ForwardScratch<E> scratch(carver, p, plan);
  const typename E::Session session;
  const ForwardTask own(p, plan, task);
  const Sequences at = sequences_of(p, own.batch);
  for (int64_t i = 0; i < own.tiles; ++i) {
    ForwardRows<E>& tile = scratch.tiles[i];
    describe_rows(tile.rows, p, at, own.batch, own.head * p.group(), p.group(), (own.first_tile + i) * E::tile_rows);
    load_rows(p, own.part == 0, tile, scratch);
  }
  add_keys(p, plan, at, own, scratch);
  for (int64_t i = 0; i < own.tiles; ++i) {
    ForwardRows<E>& tile = scratch.tiles[i];
    if (plan.key_parts == 1)
      finish_rows(p, tile.rows, tile.state, scratch);
    else
      store_part(p, tile.rows, tile.state, Part<E>(p, plan, own.batch, own.head, own.first_tile + i, own.part));
  }
}

// The parts of one tile of rows, in the order of the keys.
template <class E>
void merge_task(const Problem& p, const Plan& plan, int64_t task, void* memory) {
  Carver carver(memory);
  ForwardScratch<E> scratch(carver, p, plan);
  const int64_t tile = task % plan.row_tiles, unit = task / plan.row_tiles;
  const int64_t head = unit % p.key_value_heads, batch = unit / p.key_value_heads;
  ForwardRows<E>& merged = scratch.tiles[0];
  describe_rows(merged.rows, p, sequences_of(p, batch), batch, head * p.group(), p.group(), tile * E::tile_rows);
  start_softmax(p, merged.rows, false, merged.state);
  for (int64_t i = 0; i < plan.key_parts; ++i) {
    const Part<E> part(p, plan, batch, head, tile, i);
    add_softmax(p, merged.rows.padded, part.reference, part.sum, part.output, merged.state);
  }
  finish_rows(p, merged.rows, merged.state, scratch);
}

}  // namespace
