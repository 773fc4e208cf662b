// Forward pass of few rows against many keys, as in decoding. It is as fast as memory is read: keys and values are read
// where they lie, once, in their own type, and in the order in which they lie: a few keys of all heads of a task, which
// are neighbours, then the next few. That is a stream, which hardware foresees; one head after the other is not.
// Vectors run along head_dim in both products and along the keys between them, so that few rows waste no lanes.
#pragma once

namespace {

// What a task leaves of one head: sums relative to the rows' references among its keys.
template <class E>
struct NarrowState {
  using Real = typename E::Real;
  Real* reference;  // [row]
  Real* sum;        // [row][lanes], to be added up
  Real* output;     // [row][value_head_dim, as it is read]

  static int64_t sums_size(const Problem& p) {  // with the output, which is rescaled like it
    return E::room(p.query_length * p.group()) * (lanes<Real> + E::padded(p.value_head_dim));
  }
  static int64_t size(const Problem& p) { return E::tile_rows + sums_size(p); }

  NarrowState(const Problem& p, Real* states, int64_t head)
      : reference(states + head * size(p)),
        sum(reference + E::tile_rows),
        output(sum + E::room(p.query_length * p.group()) * lanes<Real>) {}
};

template <class E>
struct NarrowScratch {
  using Real = typename E::Real;
  Rows<E>* rows;           // of each head
  Real *query, *s, *row, *states;
  int64_t query_size, s_size;  // of a head

  NarrowScratch(Carver& carver, const Problem& p, const Plan& plan) {
    const int64_t room = E::room(p.query_length * p.group());
    query_size = room * E::padded(p.head_dim);
    s_size = room * E::tile_keys;
    rows = carver.take<Rows<E>>(plan.heads_of_a_task);
    query = carver.take<Real>(plan.heads_of_a_task * query_size);
    s = carver.take<Real>(plan.heads_of_a_task * s_size);
    row = carver.take<Real>(p.value_head_dim);
    states = plan.key_parts > 1 ? nullptr : carver.take<Real>(plan.heads_of_a_task * NarrowState<E>::size(p));
  }
};

// A run of heads and a part of the keys, as tasks are numbered.
struct NarrowTask {
  int64_t batch, part, first_head, heads;

  NarrowTask(const Problem& p, const Plan& plan, int64_t task)
      : batch(task / plan.head_tasks / plan.key_parts),
        part(task / plan.head_tasks % plan.key_parts),
        first_head(task % plan.head_tasks * plan.heads_of_a_task),
        heads(least(plan.heads_of_a_task, p.key_value_heads - first_head)) {}
};

template <class E>
void start_head(const Problem& p, const Rows<E>& rows, bool with_sink, typename E::Real* query, NarrowState<E> state) {
  using Real = typename E::Real;
  const int64_t padded = E::padded(p.head_dim), start = p.query.batch.offset(rows.batch);
  const Real factor = query_factor<E>(p);
  memset(query, 0, size_t(E::room(rows.count) * padded) * sizeof(Real));
  memset(state.sum, 0, size_t(NarrowState<E>::sums_size(p)) * sizeof(Real));
  for (int64_t r = 0; r < rows.count; ++r) {
    const Real sink = p.sinks && with_sink
                          ? load_one<Real>(p.sinks, p.sinks.batch.offset(rows.batch) + rows.head[r])
                          : Real(minus_infinity);
    state.reference[r] = sink;
    state.sum[r * lanes<Real>] = sink == Real(minus_infinity) ? 0 : 1;
    if (rows.empty(r)) continue;
    const typename E::T* from = static_cast<const typename E::T*>(p.query.data) +
                                row_index(start, rows.query[r], p.query_heads, rows.head[r], p.head_dim);
    for (int64_t d = 0; d < p.head_dim; ++d) query[r * padded + E::place(d)] = Real(from[d]) * factor;
  }
}

// The operand's values for row r and the keys of the view, at those keys' places of `values`.
template <class E>
void load_logits_row(const LogitsOperand& operand, const Rows<E>& rows, int64_t r, const View<E>& view,
                     typename E::Real* values) {
  const int64_t begin = view.all_begin, end = least(view.all_end, view.keys.count);
  const int64_t start = logits_index(operand, rows.batch, rows.head[r], rows.query[r]);
  if (operand.key_stride)
    return load_row(values + begin, operand.data, operand.element, start + view.keys.first + begin, end - begin);
  const auto number = load_one<typename E::Real>(operand, start);
  for (int64_t j = begin; j < end; ++j) values[j] = number;
}

// Turns products of row r into its logits, as logits.h does.
template <class E>
void finish_logits(const Problem& p, const Sequences& at, const Rows<E>& rows, int64_t r, const View<E>& view,
                   typename E::Real* s) {
  using Real = typename E::Real;
  const auto for_each = [&](auto apply) {
    for (int64_t j = view.all_begin; j < view.all_end; j += lanes<Real>) store(s + j, apply(load(s + j), j));
  };
  Vec<Real> lane;
  for (int64_t i = 0; i < lanes<Real>; ++i) lane[i] = Real(i);
  Real values[E::tile_keys] = {};  // 0 beyond the last key
  if (p.bias) {
    load_logits_row(p.bias, rows, r, view, values);
    for_each([&](Vec<Real> x, int64_t j) { return x + load(values + j); });
  }
  if (p.soft_cap > 0) {
    const Real cap = Real(p.soft_cap), inverse = Real(1 / p.soft_cap);
    for_each([&](Vec<Real> x, int64_t) { return tanh(x * inverse) * cap; });
  }
  if (p.alibi_slopes) {
    const Real slope = rows.slope[r], distance = Real(rows.position[r] - view.keys.first);
    for_each([&](Vec<Real> x, int64_t j) { return x - slope * magnitude(distance - Real(j) - lane); });
  }
  const Vec<Real> nothing = broadcast(Real(minus_infinity));
  if (view.masked) {
    const Vec<Real> low = broadcast(Real(clamped(rows.low[r] - view.keys.first, 0, E::tile_keys)));
    const Vec<Real> high = broadcast(Real(clamped(rows.high[r] - view.keys.first, 0, E::tile_keys)));
    for_each([&](Vec<Real> x, int64_t j) {
      const Vec<Real> key = lane + Real(j);
      return (key >= low) & (key < high) ? x : nothing;
    });
  }
  if (view.masked && at.key_segments) {
    Int<Real> same[E::tile_keys] = {};
    for (int64_t j = view.all_begin; j < least(view.all_end, view.keys.count); ++j)
      same[j] = at.key_segments[view.keys.first + j] == rows.segment[r];
    for_each([&](Vec<Real> x, int64_t j) { return load_int<Real>(same + j) != 0 ? x : nothing; });
  }
  if (p.mask) {
    load_logits_row(p.mask, rows, r, view, values);
    for_each([&](Vec<Real> x, int64_t j) { return load(values + j) != 0 ? x : nothing; });
  }
}

// Turns the logits of row r into probabilities relative to its reference, as softmax.h does.
template <class E>
void narrow_softmax(const Problem& p, const View<E>& view, int64_t r, typename E::Real* s,
                    const NarrowState<E>& state) {
  using Real = typename E::Real;
  constexpr int64_t width = lanes<Real>;
  const Real factor = exponent_factor<E>(p), most_above = Real(most_above_reference) / factor;
  Vec<Real> largest = broadcast(Real(minus_infinity));
  for (int64_t j = view.all_begin; j < view.all_end; j += width) largest = maximum(largest, load(s + j));
  Vec<Real> reference = broadcast(state.reference[r]), sum = load(state.sum + r * width);
  if (any<Real>(largest > reference + most_above)) {
    const Vec<Real> before = reference;
    for (int64_t i = 0; i < width; ++i) reference = maximum(reference, broadcast(largest[i]));
    const Vec<Real> rescale = exponential(before - base_of<Real>(reference), factor);
    state.reference[r] = reference[0];
    sum *= rescale;
    const int64_t padded = E::padded(p.value_head_dim);
    Real* const out = state.output + r * padded;
    for (int64_t d = 0; d < padded; d += width) store(out + d, load(out + d) * rescale);
  }
  const Vec<Real> base = base_of<Real>(reference);
  for (int64_t j = view.all_begin; j < view.all_end; j += width) {
    const Vec<Real> probability = exponential(load(s + j) - base, factor);
    store(s + j, probability);
    sum += probability;
  }
  store(state.sum + r * width, sum);
}

// How many keys of all heads are a chunk: what is read of one head is far from what is read of it next, so not many; but
// the sums of the output are read and written once a chunk, so not few either. It ends in the nearest cache.
constexpr int64_t bytes_of_a_chunk = 1 << 14;

template <class E>
int64_t keys_of_a_chunk(const Problem& p, int64_t heads) {
  const int64_t bytes_of_a_key = heads * most(p.head_dim, p.value_head_dim) * int64_t{sizeof(typename E::T)};
  return clamped(rounded_down(bytes_of_a_chunk / bytes_of_a_key, E::key_step), E::key_step, E::tile_keys);
}

// What the group that begins at row r asks for ahead.
template <class E>
Ahead share_of_group(int64_t lines, int64_t dim, int64_t r, int64_t rows) {
  return Ahead::share(lines, dim * int64_t{sizeof(typename E::T)}, r / E::group, (rows + E::group - 1) / E::group);
}

// Products of a chunk of keys, begin <= j < end of the tile, with all rows of a head.
template <class E>
void add_narrow_keys(const Problem& p, const Lines<typename E::T>& keys, int64_t rows, int64_t begin, int64_t end,
                     int64_t last, const typename E::Real* query, typename E::Real* s) {
  for_each_group<E>(rows, [&]<int group>(int64_t r) {
    multiply_keys<E, group>(query + r * E::padded(p.head_dim), keys, begin, end, last, p.head_dim,
                            share_of_group<E>(end - begin, p.head_dim, r, rows), s + r * E::tile_keys);
  });
}

template <class E>
void add_narrow_values(const Problem& p, const Sequences& at, KeyTile tile, const Lines<typename E::T>& values,
                       int64_t rows, int64_t begin, int64_t end, const typename E::Real* s,
                       const NarrowState<E>& state) {
  for_each_existing_run(at, tile, begin, end, [&](int64_t first, int64_t after) {
    for_each_group<E>(rows, [&]<int group>(int64_t r) {
      multiply_values<E, group>(s + r * E::tile_keys, values, first, after, p.value_head_dim,
                                share_of_group<E>(end - begin, p.value_head_dim, r, rows),
                                state.output + r * E::padded(p.value_head_dim));
    });
  });
}

// A tile of keys of all heads of a task.
template <class E>
void add_narrow_tile(const Problem& p, const Sequences& at, const NarrowTask& own, const View<E>& view,
                     const NarrowScratch<E>& scratch, typename E::Real* states) {
  using T = typename E::T;
  const int64_t rows = scratch.rows[0].count, chunk = keys_of_a_chunk<E>(p, own.heads);
  const auto for_each_chunk = [&](auto apply) {
    for (int64_t j = view.all_begin; j < view.all_end; j += chunk)
      for (int64_t i = 0; i < own.heads; ++i) apply(i, j, least(j + chunk, view.all_end));
  };
  for_each_chunk([&](int64_t i, int64_t begin, int64_t end) {
    const Lines<T> keys =
        lines_of<T>(p.key, own.batch, view.keys.first, p.key_value_heads, own.first_head + i, p.head_dim);
    add_narrow_keys<E>(p, keys, rows, begin, end, view.keys.count - 1, scratch.query + i * scratch.query_size,
                       scratch.s + i * scratch.s_size);
  });
  for (int64_t i = 0; i < own.heads; ++i)
    for (int64_t r = 0; r < rows; ++r) {
      typename E::Real* const s = scratch.s + i * scratch.s_size + r * E::tile_keys;
      finish_logits(p, at, scratch.rows[i], r, view, s);
      narrow_softmax(p, view, r, s, NarrowState<E>(p, states, i));
    }
  for_each_chunk([&](int64_t i, int64_t begin, int64_t end) {
    const Lines<T> values =
        lines_of<T>(p.value, own.batch, view.keys.first, p.key_value_heads, own.first_head + i, p.value_head_dim);
    add_narrow_values<E>(p, at, view.keys, values, rows, begin, end, scratch.s + i * scratch.s_size,
                         NarrowState<E>(p, states, i));
  });
}

template <class E>
void finish_head(const Problem& p, const Rows<E>& rows, const NarrowState<E>& state, typename E::Real* row) {
  using Real = typename E::Real;
  const int64_t dim = p.value_head_dim, padded = E::padded(dim);
  const int64_t start = p.log_sum_exp.batch.offset(rows.batch), output = p.output.batch.offset(rows.batch);
  for (int64_t r = 0; r < rows.count; ++r) {
    Real sum = 0;
    for (int64_t i = 0; i < lanes<Real>; ++i) sum += state.sum[r * lanes<Real> + i];
    const Real lse = Real(sum == 0 ? minus_infinity : log(double(sum)) + double(state.reference[r]));
    store_row(p.log_sum_exp.data, p.log_sum_exp.element, start + rows.head[r] * p.query_length + rows.query[r], &lse,
              1);
    const Real factor = sum == 0 ? 0 : 1 / sum;
    for (int64_t d = 0; d < dim; ++d) row[d] = state.output[r * padded + E::place(d)] * factor;
    store_row(p.output.data, p.output.element, row_index(output, rows.query[r], p.query_heads, rows.head[r], dim), row,
              dim);
  }
}

template <class E>
typename E::Real* narrow_part(const Problem& p, const Plan& plan, int64_t task) {
  return static_cast<typename E::Real*>(plan.forward_parts) + task * plan.heads_of_a_task * NarrowState<E>::size(p);
}

template <class E>
void narrow_task(const Problem& p, const Plan& plan, int64_t task, void* memory) {
  using Real = typename E::Real;
  Carver carver(memory);
  const NarrowScratch<E> scratch(carver, p, plan);
  const NarrowTask own(p, plan, task);
  const Sequences at = sequences_of(p, own.batch);
  Real* const states = plan.key_parts > 1 ? narrow_part<E>(p, plan, task) : scratch.states;
  const auto state = [&](int64_t i) { return NarrowState<E>(p, states, i); };
  for (int64_t i = 0; i < own.heads; ++i) {
    describe_rows(scratch.rows[i], p, at, own.batch, (own.first_head + i) * p.group(), p.group(), 0);
    start_head(p, scratch.rows[i], own.part == 0, scratch.query + i * scratch.query_size, state(i));
  }

  const Rows<E>& rows = scratch.rows[0];  // all heads see the same keys
  const int64_t begin = most(rounded_down(rows.key_begin, E::tile_keys), own.part * plan.keys_of_a_part);
  const int64_t end = least(rows.key_end, (own.part + 1) * plan.keys_of_a_part);
  for (int64_t first = begin; first < end; first += E::tile_keys) {
    View<E> view = view_of(rows, at, {first, least(E::tile_keys, p.key_length - first)});
    if (view.first_vec == view.last_vec) continue;
    // All rows take the keys of any.
    view.masked |= view.common_begin > view.all_begin || view.common_end < view.all_end || view.first_vec > 0 ||
                   view.last_vec < rows.padded / lanes<Real>;
    add_narrow_tile(p, at, own, view, scratch, states);
  }
  if (plan.key_parts > 1) return;
  for (int64_t i = 0; i < own.heads; ++i) finish_head(p, scratch.rows[i], state(i), scratch.row);
}

// Adds what row r summed over other keys: both are rescaled to the larger reference.
template <class E>
void add_row(const Problem& p, int64_t r, const NarrowState<E>& from, const NarrowState<E>& to) {
  using Real = typename E::Real;
  const Vec<Real> before = broadcast(to.reference[r]), own = broadcast(from.reference[r]);
  const Vec<Real> largest = maximum(before, own), base = base_of<Real>(largest);
  const Real exponent = exponent_factor<E>(p);
  const Vec<Real> rescale = exponential(before - base, exponent), factor = exponential(own - base, exponent);
  to.reference[r] = largest[0];
  const auto add = [&](Real* sum, const Real* other, int64_t n) {
    for (int64_t i = 0; i < n; i += lanes<Real>) store(sum + i, load(sum + i) * rescale + load(other + i) * factor);
  };
  const int64_t padded = E::padded(p.value_head_dim);
  add(to.sum + r * lanes<Real>, from.sum + r * lanes<Real>, lanes<Real>);
  add(to.output + r * padded, from.output + r * padded, padded);
}

// The parts of some heads, in the order of the keys, into the first.
template <class E>
void merge_narrow_task(const Problem& p, const Plan& plan, int64_t task, void* memory) {
  Carver carver(memory);
  const NarrowScratch<E> scratch(carver, p, plan);
  const int64_t first = task / plan.head_tasks * plan.head_tasks * plan.key_parts + task % plan.head_tasks;
  const NarrowTask own(p, plan, first);
  const Sequences at = sequences_of(p, own.batch);
  for (int64_t i = 0; i < own.heads; ++i) {
    Rows<E>& rows = scratch.rows[0];
    describe_rows(rows, p, at, own.batch, (own.first_head + i) * p.group(), p.group(), 0);
    const NarrowState<E> state(p, narrow_part<E>(p, plan, first), i);
    for (int64_t part = 1; part < plan.key_parts; ++part) {
      const NarrowState<E> other(p, narrow_part<E>(p, plan, first + part * plan.head_tasks), i);
      for (int64_t r = 0; r < rows.count; ++r) add_row(p, r, other, state);
    }
    finish_head(p, rows, state, scratch.row);
  }
}

}  // namespace
