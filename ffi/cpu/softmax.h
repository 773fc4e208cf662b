// Online softmax over tiles of keys (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022), with rescaling only
// where it matters (FlashAttention-4). Vectors run along rows, so maximum, sum and rescaling need no horizontal step.
//
// A probability is 2^((logit - reference) * factor), where a row's reference is its largest logit when that was last
// taken. The difference comes first, though one fused operation would do: it is exactly 0 for that logit, and often exact,
// so that rows of few keys have the log-sum-exp and the probabilities that they should have.
#pragma once

namespace {

constexpr double log2_of_e = 1.4426950408889634;

// The reference is raised only when the largest exponent has grown by more than this: sums that are 2^8 times larger
// lose nothing in floating point.
constexpr double most_above_reference = 8;

// What turns logits into exponents of 2.
template <class E>
JAX_FA4_INLINE typename E::Real exponent_factor(const Problem& p) {
  return logits_unit<E>(p) * typename E::Real(log2_of_e);
}

// e^(x * unit), where factor is the exponent_factor of that unit.
template <bool flushes = false>
JAX_FA4_INLINE Vec<float> exponential(Vec<float> x, float factor) {
  return exp2<flushes>(x * factor);
}
template <bool = false>
JAX_FA4_INLINE Vec<double> exponential(Vec<double> x, double factor) { return exp(x * (factor / log2_of_e)); }

template <class E>
struct SoftmaxState {
  using Real = typename E::Real;
  Real *reference, *sum;  // [tile_rows]; a reference of -inf: nothing was seen
  Real* output;           // [value_head_dim, in whole blocks][tile_rows]
  bool started;           // some tile of keys was seen

  void take(Carver& carver, const Problem& p) {
    reference = carver.take<Real>(E::tile_rows);
    sum = carver.take<Real>(E::tile_rows);
    output = carver.take<Real>(rounded_up(p.value_head_dim, E::left_rows) * E::tile_rows);
  }
};

// A sink is a logit without a value: the state of a row that has seen one key of value 0. One part of the keys has it.
template <class E>
void start_softmax(const Problem& p, const Rows<E>& rows, bool with_sink, SoftmaxState<E>& state) {
  using Real = typename E::Real;
  const int64_t start = p.sinks ? p.sinks.batch.offset(rows.batch) : 0;
  for (int64_t r = 0; r < rows.padded; ++r) {
    const Real sink =
        p.sinks && with_sink ? load_one<Real>(p.sinks, start + rows.head[r]) : Real(minus_infinity);
    state.reference[r] = sink;
    state.sum[r] = sink == Real(minus_infinity) ? 0 : 1;
  }
  state.started = false;
  memset(state.output, 0, size_t(rounded_up(p.value_head_dim, E::left_rows) * E::tile_rows) * sizeof(Real));
}

// The natural logarithm of a row's sum of exponentials.
template <class E>
double log_sum_exp_of(const Problem& p, const SoftmaxState<E>& state, int64_t r) {
  return log(double(state.sum[r])) + double(state.reference[r]) * double(logits_unit<E>(p));
}

// What a reference is subtracted as: where nothing was seen, logits of -inf must not become NaN.
template <class Real>
JAX_FA4_INLINE Vec<Real> base_of(Vec<Real> reference) {
  return reference == Real(minus_infinity) ? Vec<Real>{} : reference;
}

// The largest of s over keys begin <= j < end. Four chains hide the latency of a maximum.
template <class E>
JAX_FA4_INLINE Vec<typename E::Real> largest_logit(const typename E::Real* s, int64_t begin, int64_t end) {
  using Real = typename E::Real;
  constexpr int64_t chains = 4;
  static_assert(E::key_step % chains == 0);
  Vec<Real> largest[chains];
  for (int64_t i = 0; i < chains; ++i) largest[i] = broadcast(Real(minus_infinity));
  for (int64_t j = begin; j < end; j += chains)
    for (int64_t i = 0; i < chains; ++i) largest[i] = maximum(largest[i], load(s + (j + i) * E::tile_rows));
  return maximum(maximum(largest[0], largest[1]), maximum(largest[2], largest[3]));
}

// Raises the reference of a vector of rows and rescales what was summed before.
template <class E>
void raise_reference(const Problem& p, int64_t r, Vec<typename E::Real> reference, SoftmaxState<E>& state) {
  using Real = typename E::Real;
  const Vec<Real> rescale = exponential(load(state.reference + r) - base_of<Real>(reference), exponent_factor<E>(p));
  store(state.reference + r, reference);
  store(state.sum + r, load(state.sum + r) * rescale);
  Real* at = state.output + r;
  for (int64_t d = 0; d < p.value_head_dim; ++d, at += E::tile_rows) store(at, load(at) * rescale);
}

// Probabilities of one vector of rows and their sums.
template <class E>
JAX_FA4_INLINE Vec<typename E::Real> store_probabilities(const View<E>& view, int64_t v, const typename E::Real* s,
                                                         Vec<typename E::Real> base, typename E::Real factor,
                                                         typename E::Item* probabilities) {
  using Real = typename E::Real;
  constexpr int64_t step = 2 * E::numbers;
  static_assert(E::key_step % step == 0);
  const int64_t r = v * lanes<Real>;
  Vec<Real> sum[step] = {};
  for (int64_t j = view.begin[v]; j < view.end[v]; j += step) {
    Vec<Real> probability[step];
    for (int64_t i = 0; i < step; ++i) {
      probability[i] = exponential<E::flushes>(load(s + (j + i) * E::tile_rows + r) - base, factor);
      sum[i] += probability[i];
    }
    for (int64_t i = 0; i < step; i += E::numbers) E::store_right(probabilities, j + i, r, probability + i);
  }
  for (int64_t i = 1; i < step; ++i) sum[0] += sum[i];
  return sum[0];
}

// Turns the logits of a tile into the probabilities that the engine multiplies values with. Where these do not take the
// place of logits, sums that have grown tell afterwards that the reference was too small, and nobody looks for the
// largest logit of every tile. The first tile sets it even where a sink has: the largest probability of a row is then
// mostly 1, which bfloat16 has.
template <class E>
void online_softmax(const Problem& p, const View<E>& view, const typename E::Real* s,
                    typename E::Item* probabilities, SoftmaxState<E>& state) {
  using Real = typename E::Real;
  const Real factor = exponent_factor<E>(p), most_above = E::in_place ? Real(most_above_reference) / factor : 0;
  const Real largest_sum = Real(1 << int(most_above_reference));
  for (int64_t v = view.first_vec; v < view.last_vec; ++v) {
    const int64_t r = v * lanes<Real>;
    if (v % 2 == 0) E::keep_awake();
    const Vec<Real> before = load(state.reference + r);
    if (!E::in_place && state.started && !any<Real>(before == Real(minus_infinity))) {
      const Vec<Real> sum = store_probabilities(view, v, s, before, factor, probabilities);
      if (!any<Real>(~(sum <= largest_sum))) {
        store(state.sum + r, load(state.sum + r) + sum);
        continue;
      }
    }
    const Vec<Real> largest = largest_logit<E>(s + r, view.begin[v], view.end[v]);
    if (any<Real>(largest > before + most_above)) raise_reference(p, r, maximum(before, largest), state);
    const Vec<Real> base = base_of<Real>(load(state.reference + r));
    const Vec<Real> sum = store_probabilities(view, v, s, base, factor, probabilities);
    store(state.sum + r, load(state.sum + r) + sum);
  }
  state.started = true;
}

// Adds what was summed over other keys: both are rescaled to the larger reference.
template <class E>
void add_softmax(const Problem& p, int64_t rows, const typename E::Real* reference, const typename E::Real* sum,
                 const typename E::Real* output, SoftmaxState<E>& state) {
  using Real = typename E::Real;
  const Real exponent = exponent_factor<E>(p);
  for (int64_t r = 0; r < rows; r += lanes<Real>) {
    const Vec<Real> before = load(state.reference + r), own = load(reference + r);
    const Vec<Real> largest = maximum(before, own), base = base_of<Real>(largest);
    const Vec<Real> rescale = exponential(before - base, exponent), factor = exponential(own - base, exponent);
    store(state.reference + r, largest);
    store(state.sum + r, load(state.sum + r) * rescale + load(sum + r) * factor);
    for (int64_t d = 0; d < p.value_head_dim; ++d) {
      Real* at = state.output + d * E::tile_rows + r;
      store(at, load(at) * rescale + load(output + d * E::tile_rows + r) * factor);
    }
  }
}

}  // namespace
