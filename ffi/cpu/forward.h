// Forward pass of one tile of rows: online softmax over tiles of keys (Milakov & Gimelshein 2018; FlashAttention,
// Dao et al. 2022). Vectors run along rows, so maximum, sum and rescaling need no horizontal step.
#pragma once

namespace {

template <class Real>
struct ForwardScratch {
  Real *rows, *query, *key, *value, *s, *output, *largest, *sum;

  ForwardScratch(Carver& carver, const Problem& p) {
    const int64_t wide = most(p.head_dim, p.value_head_dim);
    rows = carver.take<Real>(tile_rows * wide);
    query = carver.take<Real>(p.head_dim * tile_rows);
    key = carver.take<Real>(tile_keys * p.head_dim);
    value = carver.take<Real>(tile_keys * p.value_head_dim);
    s = carver.take<Real>(tile_keys * tile_rows);
    output = carver.take<Real>(p.value_head_dim * tile_rows);
    largest = carver.take<Real>(tile_rows);
    sum = carver.take<Real>(tile_rows);
  }
};

// A sink is a logit without a value: the state of a row that has seen one key of value 0. One part of the keys has it.
template <class Real>
void start_softmax(const Problem& p, const Rows<Real>& rows, bool with_sink, ForwardScratch<Real>& scratch) {
  for (int64_t r = 0; r < rows.padded; ++r) {
    const Real sink = p.sinks && with_sink
                          ? load_one<Real>(p.sinks, p.sinks.batch.offset(rows.batch) + rows.head[r])
                              : Real(minus_infinity);
    scratch.largest[r] = sink;
    scratch.sum[r] = sink == Real(minus_infinity) ? 0 : 1;
  }
  memset(scratch.output, 0, size_t(p.value_head_dim * rows.padded) * sizeof(Real));
}

// Turns the logits of a tile into probabilities relative to the running maximum and rescales what was summed before.
template <class Real>
void online_softmax(const Problem& p, const Rows<Real>& rows, int64_t keys, ForwardScratch<Real>& scratch) {
  const int64_t stride = rows.padded;
  for (int64_t r = 0; r < stride; r += lanes<Real>) {
    const Vec<Real> before = load(scratch.largest + r);
    Vec<Real> largest = before;
    for (int64_t j = 0; j < keys; ++j) largest = maximum(largest, load(scratch.s + j * stride + r));
    const Vec<Real> reference = largest == Real(minus_infinity) ? Vec<Real>{} : largest;  // nothing seen yet

    Vec<Real> sum = {};
    for (int64_t j = 0; j < keys; ++j) {
      Real* at = scratch.s + j * stride + r;
      const Vec<Real> probability = exp(load(at) - reference);
      sum += probability;
      store(at, probability);
    }
    store(scratch.largest + r, largest);
    if (!any<Real>(largest != before)) {
      store(scratch.sum + r, load(scratch.sum + r) + sum);
      continue;
    }
    const Vec<Real> rescale = exp(before - reference);
    store(scratch.sum + r, load(scratch.sum + r) * rescale + sum);
    for (int64_t d = 0; d < p.value_head_dim; ++d) {
      Real* at = scratch.output + d * stride + r;
      store(at, load(at) * rescale);
    }
  }
}

template <class Real>
void finish_rows(const Problem& p, const Rows<Real>& rows, ForwardScratch<Real>& scratch) {
  for (int64_t r = 0; r < rows.count; ++r) {
    const Real sum = scratch.sum[r];
    const double log_sum_exp = double(scratch.largest[r]) + log(double(sum));
    const Real lse = Real(sum == 0 ? minus_infinity : log_sum_exp);
    const int64_t index =
        p.log_sum_exp.batch.offset(rows.batch) + rows.head[r] * p.query_length + rows.query[r];
    store_row(p.log_sum_exp.data, p.log_sum_exp.element, index, &lse, 1);
    scratch.sum[r] = sum == 0 ? 0 : 1 / sum;
  }
  const int64_t dim = p.value_head_dim;
  for (int64_t d = 0; d < dim; ++d)
    for (int64_t r = 0; r < rows.count; ++r)
      scratch.rows[r * dim + d] = scratch.output[d * rows.padded + r] * scratch.sum[r];
  store_query_rows(p.output, scratch.rows, dim, rows, p.query_heads, dim);
}

// A tile of rows and a part of the keys, as tasks are numbered: the longest rows of a causal call first, and all heads of
// a part before the next part, for they lie in the same pages of memory.
struct ForwardTask {
  int64_t batch, part, head, tile;

  ForwardTask(const Problem& p, const Plan& plan, int64_t task)
      : batch(task / plan.row_tiles / p.key_value_heads / plan.key_parts),
        part(task / plan.row_tiles / p.key_value_heads % plan.key_parts),
        head(task / plan.row_tiles % p.key_value_heads),
        tile(plan.row_tiles - 1 - task % plan.row_tiles) {}
};

template <class Real>
void describe_rows(Rows<Real>& rows, const Problem& p, const Sequences& at, const ForwardTask& own) {
  describe_rows(rows, p, at, own.batch, own.head * p.group(), p.group(), own.tile * tile_rows);
}

// What one part of the keys leaves: sums relative to the rows' maxima among them.
template <class Real>
struct Part {
  Real *largest, *sum, *output;

  static int64_t size(const Problem& p) { return tile_rows * (p.value_head_dim + 2); }

  Part(const Problem& p, const Plan& plan, int64_t task)
      : largest(static_cast<Real*>(plan.forward_parts) + task * size(p)),
        sum(largest + tile_rows),
        output(sum + tile_rows) {}
};

template <class Real>
void forward_task(const Problem& p, const Plan& plan, int64_t task, void* memory) {
  Carver carver(memory);
  ForwardScratch<Real> scratch(carver, p);
  const ForwardTask own(p, plan, task);
  const int64_t batch = own.batch, part = own.part, head = own.head;

  const Sequences at = sequences_of(p, batch);
  Rows<Real> rows;
  describe_rows(rows, p, at, own);
  load_query_rows(scratch.rows, p.head_dim, p.query, rows, p.query_heads, p.head_dim);
  transpose(scratch.query, rows.padded, scratch.rows, p.head_dim, rows.count, p.head_dim, Real(p.scale));
  start_softmax(p, rows, part == 0, scratch);

  const int64_t begin = most(rows.key_begin, part * plan.keys_of_a_part);
  const int64_t end = least(rows.key_end, (part + 1) * plan.keys_of_a_part);
  for (int64_t first = begin; first < end; first += tile_keys) {
    const KeyTile keys = {first, least(tile_keys, end - first)};
    const Sight seen = sight(rows, at, keys);
    if (seen == Sight::none) continue;
    load_keys(scratch.key, p.head_dim, p.key, at, batch, keys, p.key_value_heads, head, p.head_dim);
    load_keys(scratch.value, p.value_head_dim, p.value, at, batch, keys, p.key_value_heads, head, p.value_head_dim);
    logits<Real>(p, at, rows, keys, seen, scratch.query, scratch.key, scratch.s, nullptr);
    online_softmax(p, rows, keys.count, scratch);
    product<Real>(p.value_head_dim, rows.padded, keys.count, {scratch.output, rows.padded},
                  {scratch.value, 1, p.value_head_dim}, {scratch.s, rows.padded}, true);
  }
  if (plan.key_parts == 1) return finish_rows(p, rows, scratch);
  const Part<Real> left(p, plan, task);
  memcpy(left.largest, scratch.largest, size_t(rows.padded) * sizeof(Real));
  memcpy(left.sum, scratch.sum, size_t(rows.padded) * sizeof(Real));
  memcpy(left.output, scratch.output, size_t(p.value_head_dim * rows.padded) * sizeof(Real));
}

// Adds a part to what was merged before: both are rescaled to the larger maximum.
template <class Real>
void add_part(const Part<Real>& part, int64_t value_head_dim, int64_t stride, ForwardScratch<Real>& scratch) {
  for (int64_t r = 0; r < stride; r += lanes<Real>) {
    const Vec<Real> before = load(scratch.largest + r), own = load(part.largest + r);
    const Vec<Real> largest = maximum(before, own);
    const Vec<Real> reference = largest == Real(minus_infinity) ? Vec<Real>{} : largest;  // nothing seen yet
    const Vec<Real> rescale = exp(before - reference), factor = exp(own - reference);
    store(scratch.largest + r, largest);
    store(scratch.sum + r, load(scratch.sum + r) * rescale + load(part.sum + r) * factor);
    for (int64_t d = 0; d < value_head_dim; ++d) {
      Real* at = scratch.output + d * stride + r;
      store(at, load(at) * rescale + load(part.output + d * stride + r) * factor);
    }
  }
}

// The parts of one tile of rows, in the order of the keys.
template <class Real>
void merge_task(const Problem& p, const Plan& plan, int64_t task, void* memory) {
  Carver carver(memory);
  ForwardScratch<Real> scratch(carver, p);
  const int64_t tiles = plan.row_tiles * p.key_value_heads;  // of a batch entry
  const int64_t first = task / tiles * tiles * plan.key_parts + task % tiles;
  const ForwardTask own(p, plan, first);
  Rows<Real> rows;
  describe_rows(rows, p, sequences_of(p, own.batch), own);
  start_softmax(p, rows, false, scratch);
  for (int64_t part = 0; part < plan.key_parts; ++part)
    add_part(Part<Real>(p, plan, first + part * tiles), p.value_head_dim, rows.padded, scratch);
  finish_rows(p, rows, scratch);
}

}  // namespace
