// Backward pass: gradients of query, key, value, sinks and slopes. A task owns a stripe of row tiles of one key/value
// head: it writes the query gradients of its rows and sums key and value gradients over them; stripes are added up
// afterwards in a fixed order.
#pragma once

namespace {

// Gradients of keys and values that one task sums up, rows padded to lanes. A tile of keys is cleared when it is first
// added to, while it is near; most of a causal task's are never touched.
template <class E>
struct KeySums {
  using Real = typename E::Real;
  Real *touched, *key, *value;  // per tile of keys: 0 or 1; [key][head_dim]; [key][value_head_dim]

  static int64_t key_dim(const Problem& p) { return padded_to_lanes<Real>(p.head_dim); }
  static int64_t value_dim(const Problem& p) { return padded_to_lanes<Real>(p.value_head_dim); }
  // Products write whole blocks of keys.
  static int64_t keys(const Problem& p) { return rounded_up(p.key_length, E::key_step); }
  static int64_t flags(const Problem& p) {
    return padded_to_lanes<Real>((p.key_length + E::tile_keys - 1) / E::tile_keys);
  }
  static int64_t size(const Problem& p) { return flags(p) + keys(p) * (key_dim(p) + value_dim(p)); }

  KeySums(const Problem& p, Real* memory)
      : touched(memory), key(touched + flags(p)), value(key + keys(p) * key_dim(p)) {}

  void start(const Problem& p) { memset(touched, 0, size_t(flags(p)) * sizeof(Real)); }

  void touch(const Problem& p, int64_t tile) {
    if (touched[tile] != 0) return;
    touched[tile] = 1;
    const int64_t first = tile * E::tile_keys, count = least(E::tile_keys, keys(p) - first);
    memset(key + first * key_dim(p), 0, size_t(count * key_dim(p)) * sizeof(Real));
    memset(value + first * value_dim(p), 0, size_t(count * value_dim(p)) * sizeof(Real));
  }
};

// What a task holds of one of its tiles of rows.
template <class E>
struct BackwardRows {
  using Real = typename E::Real;

  Rows<E> rows;
  GradientRows<E> gradient;
  Real* query_gradient;    // transposed
  Real* slope_gradients;   // per row
  double* sink_gradients;  // per row

  void take(Carver& carver, const Problem& p) {
    gradient.take(carver, p);
    query_gradient = carver.take<Real>(rounded_up(p.head_dim, E::left_rows) * E::tile_rows);
    slope_gradients = carver.take<Real>(E::tile_rows);
    sink_gradients = carver.take<double>(E::tile_rows);
  }
};

template <class E>
struct BackwardScratch {
  using Real = typename E::Real;

  BackwardRows<E> tiles[most_tiles_of_a_task];
  GradientScratch<E> gradient;
  PackScratch<E> packing;
  typename E::Item* own_tile;
  Real* sums;  // KeySums, where no other task shares the head

  BackwardScratch(Carver& carver, const Problem& p, const Plan& plan) : gradient(carver, p), packing(carver, p) {
    for (int64_t i = 0; i < plan.tiles_of_a_task; ++i) tiles[i].take(carver, p);
    own_tile = plan.packed_tasks ? nullptr : carver.take<typename E::Item>(PackedTile<E>::size(p, Pass::backward));
    sums = plan.stripes == 1 ? carver.take<Real>(KeySums<E>::size(p)) : nullptr;
  }
};

// The sums of one tile of keys, which are done, to where the call wants them.
template <class E>
void store_key_gradients(const Problem& p, int64_t batch, int64_t head, int64_t tile, KeySums<E>& sums) {
  using Real = typename E::Real;
  sums.touch(p, tile);
  const int64_t first = tile * E::tile_keys, last = least(first + E::tile_keys, p.key_length);
  const int64_t dim = sums.key_dim(p), value_dim = sums.value_dim(p);
  const Operand &to_key = p.gradients.key, &to_value = p.gradients.value;
  const int64_t key_start = to_key ? to_key.batch.offset(batch) : 0;
  const int64_t value_start = to_value ? to_value.batch.offset(batch) : 0;
  for (int64_t j = first; j < last; ++j) {
    Real *key = sums.key + j * dim, *value = sums.value + j * value_dim;
    for (int64_t d = 0; d < dim; ++d) key[d] *= Real(p.scale);
    if (to_key)
      store_row(to_key.data, to_key.element, row_index(key_start, j, p.key_value_heads, head, p.head_dim), key,
                p.head_dim);
    if (to_value)
      store_row(to_value.data, to_value.element, row_index(value_start, j, p.key_value_heads, head, p.value_head_dim),
                value, p.value_head_dim);
  }
}

// dV += P^T dO and dK += dS^T Q, vectors along dimensions; dQ^T += K^T dS^T, vectors along rows.
template <class E>
void add_tile(const Problem& p, const View<E>& view, const PackedTile<E>& packed, const GradientScratch<E>& scratch,
              BackwardRows<E>& tile, KeySums<E>& sums) {
  using Real = typename E::Real;
  const int64_t dim = sums.key_dim(p), value_dim = sums.value_dim(p);
  const GradientRows<E>& g = tile.gradient;
  for_each_run(view, [&](int64_t first, int64_t last, int64_t first_vec, int64_t last_vec) {
    const int64_t r = first_vec * lanes<Real>, depth = (last_vec - first_vec) * lanes<Real>;
    const int64_t key = view.keys.first + first, left = E::items(first * E::tile_rows);
    E::multiply_rows(last - first, value_dim, r, depth, sums.value + key * value_dim, value_dim,
                     scratch.probabilities + left, g.output_gradient_rows);
    E::multiply_rows(last - first, dim, r, depth, sums.key + key * dim, dim, scratch.ds_left + left, g.query_rows);
  });
  for_each_depth(view, [&](int64_t begin, int64_t end, int64_t first_vec, int64_t last_vec) {
    const int64_t r = first_vec * lanes<Real>;
    E::multiply(p.head_dim, (last_vec - first_vec) * lanes<Real>, end - begin, tile.query_gradient + r,
                E::tile_rows, packed.key_transposed + E::left_offset(begin), E::left_block(packed.room),
                scratch.ds_right + E::items(begin) * E::tile_rows + r, E::tile_rows, true);
  });
}

template <class E>
void store_query_gradient(const Problem& p, BackwardRows<E>& tile, GradientScratch<E>& scratch) {
  using Real = typename E::Real;
  if (!p.gradients.query) return;
  for (int64_t d = 0; d < p.head_dim; ++d)
    for (int64_t r = 0; r < tile.rows.padded; r += lanes<Real>) {
      Real* at = tile.query_gradient + d * E::tile_rows + r;
      store(at, load(at) * Real(p.scale));
    }
  transpose(scratch.buffer, p.head_dim, tile.query_gradient, E::tile_rows, p.head_dim, tile.rows.count);
  store_query_rows(p.gradients.query, scratch.buffer, p.head_dim, tile.rows, p.query_heads, p.head_dim);
}

template <class E>
void start_rows(const Problem& p, BackwardRows<E>& tile, GradientScratch<E>& scratch) {
  using Real = typename E::Real;
  memset(tile.sink_gradients, 0, E::tile_rows * sizeof(double));
  memset(tile.slope_gradients, 0, E::tile_rows * sizeof(Real));
  memset(tile.query_gradient, 0, size_t(rounded_up(p.head_dim, E::left_rows) * E::tile_rows) * sizeof(Real));
  load_gradient_rows(p, tile.rows, tile.gradient, scratch, p.gradients.sinks ? tile.sink_gradients : nullptr);
}

// A group of tiles of rows against all keys that they see.
template <class E>
void backward_rows(const Problem& p, const Plan& plan, const Sequences& at, int64_t batch, int64_t head, int64_t group,
                   BackwardScratch<E>& scratch, KeySums<E>& sums, double* row_sums) {
  const int64_t first_tile = group * plan.tiles_of_a_task;
  const int64_t tiles = least(plan.tiles_of_a_task, plan.row_tiles - first_tile);
  int64_t begin = p.key_length, end = 0;
  for (int64_t i = 0; i < tiles; ++i) {
    BackwardRows<E>& tile = scratch.tiles[i];
    describe_rows(tile.rows, p, at, batch, head * p.group(), p.group(), (first_tile + i) * E::tile_rows);
    start_rows(p, tile, scratch.gradient);
    begin = least(begin, tile.rows.key_begin);
    end = most(end, tile.rows.key_end);
  }
  for (int64_t first = rounded_down(begin, E::tile_keys); first < end; first += E::tile_keys) {
    const KeyTile keys = {first, least(E::tile_keys, p.key_length - first)};
    PackedTile<E> packed;
    for (int64_t i = 0; i < tiles; ++i) {
      BackwardRows<E>& tile = scratch.tiles[i];
      const View<E> view = view_of(tile.rows, at, keys);
      if (view.nothing()) continue;
      if (!packed.key) {
        packed = packed_tile(p, plan, Pass::backward, at, batch, head, keys, scratch.own_tile, scratch.packing);
        sums.touch(p, first / E::tile_keys);
      }
      score_gradient(p, at, tile.rows, view, packed, tile.gradient, scratch.gradient,
                     p.gradients.alibi_slopes ? tile.slope_gradients : nullptr);
      add_tile(p, view, packed, scratch.gradient, tile, sums);
    }
  }
  for (int64_t i = 0; i < tiles; ++i) {
    BackwardRows<E>& tile = scratch.tiles[i];
    store_query_gradient(p, tile, scratch.gradient);
    for (int64_t r = 0; r < tile.rows.count; ++r) {
      double* to = row_sums + 2 * (tile.rows.head[r] - head * p.group());
      to[0] += tile.sink_gradients[r];
      to[1] += double(tile.slope_gradients[r]);
    }
  }
}

template <class E>
void backward_task(const Problem& p, const Plan& plan, int64_t task, void* memory) {
  using Real = typename E::Real;
  Carver carver(memory);
  BackwardScratch<E> scratch(carver, p, plan);
  const typename E::Session session;
  const int64_t stripe = task % plan.stripes;
  const int64_t head = task / plan.stripes % p.key_value_heads;
  const int64_t batch = task / plan.stripes / p.key_value_heads;

  const Sequences at = sequences_of(p, batch);
  const int64_t size = KeySums<E>::size(p);
  Real* sums_memory = scratch.sums ? scratch.sums : static_cast<Real*>(plan.key_value_partials) + task * size;
  KeySums<E> sums(p, sums_memory);
  sums.start(p);
  double* row_sums = plan.row_partials + task * 2 * p.group();
  const int64_t run = plan.groups_of_a_run, first = stripe * run, step = run ? 1 : plan.stripes;
  const int64_t last = run ? least(first + run, plan.row_groups) - 1 : plan.row_groups - 1 - stripe;
  for (int64_t group = last; group >= first; group -= step)
    backward_rows(p, plan, at, batch, head, group, scratch, sums, row_sums);
  for (int64_t tile = 0; plan.stripes == 1 && tile < plan.key_tiles; ++tile)
    store_key_gradients(p, batch, head, tile, sums);
}

// Adds up what the stripes found for one tile of keys of one head.
template <class E>
void reduce_task(const Problem& p, const Plan& plan, int64_t task) {
  using Real = typename E::Real;
  const int64_t tile = task % plan.key_tiles, unit = task / plan.key_tiles;
  const int64_t first = tile * E::tile_keys, last = least(first + E::tile_keys, p.key_length);
  const int64_t dim = KeySums<E>::key_dim(p), value_dim = KeySums<E>::value_dim(p), size = KeySums<E>::size(p);
  Real* partials = static_cast<Real*>(plan.key_value_partials) + unit * plan.stripes * size;
  KeySums<E> total(p, partials);
  total.touch(p, tile);
  for (int64_t stripe = 1; stripe < plan.stripes; ++stripe) {
    const KeySums<E> part(p, partials + stripe * size);
    if (part.touched[tile] == 0) continue;
    for (int64_t e = first * dim; e < last * dim; ++e) total.key[e] += part.key[e];
    for (int64_t e = first * value_dim; e < last * value_dim; ++e) total.value[e] += part.value[e];
  }
  store_key_gradients(p, unit / p.key_value_heads, unit % p.key_value_heads, tile, total);
}

}  // namespace
