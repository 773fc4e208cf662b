// The products of few rows (narrow.h): vectors along head_dim, keys and values read where they lie, in their own type.
#pragma once

namespace {

using jax_fa4::cpu::narrow_keys;
using jax_fa4::cpu::narrow_rows;

// Keys and values of type T, computed in Real: shapes for tiles.h, and how the softmax takes logits.
template <class Real_, class T_>
struct Narrow {
  using Real = Real_;
  using T = T_;
  static constexpr int64_t tile_rows = rounded_up(narrow_rows, lanes<Real>), row_step = lanes<Real>;
  static constexpr int64_t tile_keys = narrow_keys, key_step = lanes<Real>;
  static constexpr bool scales_query = true;

  // Rows are multiplied in groups of 4, 2 or 1; what a group goes beyond the last row is computed in vain.
  static constexpr int64_t group = least(lanes<Real>, 4);
  static constexpr int64_t rows_of_group(int64_t left) { return left > 2 ? group : left; }
  static constexpr int64_t room(int64_t rows) {
    return rounded_down(rows, group) + (rows % group ? rows_of_group(rows % group) : 0);
  }

  // Numbers are read so many vectors at a time. Those of bfloat16 come in pairs: the even ones, then the odd ones, for
  // that takes one instruction each and to widen them in order takes two.
  static constexpr int64_t at_once = __is_same(T, BFloat16) ? 2 : 1;
  static constexpr int64_t padded(int64_t dim) { return rounded_up(dim, at_once * lanes<Real>); }

  // Where number d of a row comes to lie.
  static constexpr int64_t place(int64_t d) {
    constexpr int64_t width = lanes<Real>;
    return at_once == 1 ? d : rounded_down(d, 2 * width) + d % 2 * width + d % (2 * width) / 2;
  }
};

// Keys or values of one head.
template <class T>
struct Lines {
  const T* first;
  int64_t stride;
};

template <class T>
Lines<T> lines_of(const Operand& from, int64_t batch, int64_t token, int64_t heads, int64_t head, int64_t dim) {
  return {static_cast<const T*>(from.data) + row_index(from.batch.offset(batch), token, heads, head, dim), heads * dim};
}

// The vectors that the next numbers give.
template <class E>
JAX_FA4_INLINE void read(const typename E::T* from, Vec<typename E::Real>* to) {
  using Real = typename E::Real;
  using T = typename E::T;
  if constexpr (__is_same(T, Real)) {
    to[0] = load(from);
  } else if constexpr (__is_same(T, BFloat16)) {
    IntVec<Real> pairs;
    memcpy(&pairs, from, sizeof pairs);
    to[0] = (Vec<Real>)(pairs << 16);
    to[1] = (Vec<Real>)(pairs & -0x10000);
  } else {
    HalfVec halves;
    memcpy(&halves, from, sizeof halves);
    to[0] = float_of_float16<Vec<Real>>(halves);
  }
}

// Of the first n numbers; 0 for the others.
template <class E>
JAX_FA4_INLINE void read_part(const typename E::T* from, int64_t n, Vec<typename E::Real>* to) {
  using T = typename E::T;
  T numbers[E::at_once * lanes<typename E::Real>] = {};
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (vector_bytes == 64) {
    const uint32_t first = (uint32_t{1} << n) - 1;
    if constexpr (sizeof numbers == 32) {
      const __m256i there = _mm256_maskz_loadu_epi16(uint16_t(first), from);
      memcpy(numbers, &there, sizeof there);
    } else {
      const __m512i there = sizeof(T) == 2   ? _mm512_maskz_loadu_epi16(first, from)
                            : sizeof(T) == 4 ? _mm512_maskz_loadu_epi32(uint16_t(first), from)
                                             : _mm512_maskz_loadu_epi64(uint8_t(first), from);
      memcpy(numbers, &there, sizeof there);
    }
    return read<E>(numbers, to);
  }
#endif
  for (int64_t i = 0; i < n; ++i) numbers[i] = from[i];
  read<E>(numbers, to);
}

template <int... l>
struct Numbers {};
template <int n, int... l>
struct NumbersBelow : NumbersBelow<n - 1, n - 1, l...> {};
template <int... l>
struct NumbersBelow<0, l...> {
  using Type = Numbers<l...>;
};
template <class Real>
using LaneNumbers = typename NumbersBelow<int(lanes<Real>)>::Type;

// Lane l of v[0] becomes the sum over all lanes of v[l]: each round adds halves of two vectors into one.
template <class Real, int distance, int... l>
JAX_FA4_INLINE void add_lanes(Vec<Real>* v, Numbers<l...> numbers) {
  constexpr int n = sizeof...(l);
#pragma GCC unroll 8
  for (int i = 0; i < distance; ++i) {
    const Vec<Real> x = v[i], y = v[i + distance];
    v[i] = __builtin_shufflevector(x, y, (l & distance ? n + l - distance : l)...) +
           __builtin_shufflevector(x, y, (l & distance ? n + l : l + distance)...);
  }
  if constexpr (distance > 1) add_lanes<Real, distance / 2>(v, numbers);
}

// What will be wanted soon: of each line bytes first <= b < last of the one so many lines on. The heads of a token lie in
// pieces too short for hardware to foresee all of them. A group of rows asks for its share, so that memory is busy while
// all of them are multiplied.
constexpr int64_t bytes_of_a_request = 64;
struct Ahead {
  int64_t lines, first, last;

  static Ahead share(int64_t lines, int64_t bytes, int64_t group, int64_t groups) {
    const auto begin = [&](int64_t i) { return i == groups ? bytes : rounded_down(bytes * i / groups, bytes_of_a_request); };
    return {lines, begin(group), begin(group + 1)};
  }
  // Of columns that begin so many bytes on.
  Ahead within(int64_t begin, int64_t bytes) const {
    return {lines, rounded_up(most(first, begin), bytes_of_a_request) - begin, least(last, begin + bytes) - begin};
  }
  template <class T>
  JAX_FA4_INLINE void request(const T* line, int64_t stride) const {
    const char* const from = reinterpret_cast<const char*>(line + lines * stride);
    for (int64_t b = first; b < last; b += bytes_of_a_request) __builtin_prefetch(from + b, 0, 2);
  }
};

// s[row][key] for keys begin <= j < end of the tile. All lanes' worth of sums of a group, over head_dim, are in
// registers, with so many keys that their loads are under way together. Keys after `last` are read as that one.
template <class E, int rows>
void multiply_keys(const typename E::Real* query, Lines<typename E::T> keys, int64_t begin, int64_t end, int64_t last,
                   int64_t dim, Ahead ahead, typename E::Real* s) {
  using Real = typename E::Real;
  using T = typename E::T;
  constexpr int64_t width = lanes<Real>, step = E::at_once * width;
  constexpr int count = int(width) / rows, block = count < registers / 8 ? count : registers / 8;
  const int64_t padded = E::padded(dim), whole = rounded_down(dim, step);
  for (int64_t j = begin; j < end; j += count) {
    const T* key[count];
    for (int i = 0; i < count; ++i) {
      key[i] = keys.first + least(j + i, last) * keys.stride;
      ahead.request(key[i], keys.stride);
    }
    Vec<Real> sum[width] = {};
    const auto add = [&](int64_t d, auto read_key) {
#pragma GCC unroll 16
      for (int first = 0; first < count; first += block) {
        Vec<Real> k[block][E::at_once];
#pragma GCC unroll 4
        for (int i = 0; i < block; ++i) read_key(key[first + i] + d, k[i]);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
          for (int v = 0; v < E::at_once; ++v) {
            const Vec<Real> q = load(query + r * padded + d + v * width);
#pragma GCC unroll 4
            for (int i = 0; i < block; ++i) sum[r * count + first + i] += q * k[i][v];
          }
      }
    };
    for (int64_t d = 0; d < whole; d += step) add(d, [](const T* from, Vec<Real>* to) { read<E>(from, to); });
    if (whole < dim) add(whole, [&](const T* from, Vec<Real>* to) { read_part<E>(from, dim - whole, to); });
    add_lanes<Real, int(width) / 2>(sum, LaneNumbers<Real>{});
    Real sums[width];
    store(sums, sum[0]);
    for (int r = 0; r < rows; ++r) memcpy(s + r * E::tile_keys + j, sums + r * count, count * sizeof(Real));
  }
}

// out[row][:] += sum over keys begin <= j < end of s[row][j] * value, for `vecs` vectors of head_dim; where `part` is
// not 0, only so many numbers are there.
template <class E, int rows, int vecs, bool part>
void multiply_block(const typename E::Real* s, Lines<typename E::T> values, int64_t begin, int64_t end, int64_t dim,
                    Ahead ahead, typename E::Real* out, int64_t out_stride) {
  using Real = typename E::Real;
  constexpr int64_t width = lanes<Real>;
  Vec<Real> sum[rows][vecs];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) sum[r][v] = load(out + r * out_stride + v * width);
  const typename E::T* from = values.first + begin * values.stride;
  for (int64_t j = begin; j < end; ++j, from += values.stride) {
    ahead.request(from, values.stride);
    Vec<Real> value[vecs];
#pragma GCC unroll 8
    for (int v = 0; v < vecs; v += E::at_once)
      if constexpr (part) read_part<E>(from + v * width, dim, value + v);
      else read<E>(from + v * width, value + v);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Vec<Real> probability = broadcast(s[r * E::tile_keys + j]);
#pragma GCC unroll 8
      for (int v = 0; v < vecs; ++v) sum[r][v] += probability * value[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; ++v) store(out + r * out_stride + v * width, sum[r][v]);
}

// The same for all of head_dim.
template <class E, int rows>
void multiply_values(const typename E::Real* s, Lines<typename E::T> values, int64_t begin, int64_t end, int64_t dim,
                     Ahead ahead, typename E::Real* out) {
  constexpr int64_t width = lanes<typename E::Real>;
  int64_t done = 0;  // bytes of a line
  constexpr int sums = registers / 2, least_vecs = E::at_once;  // so many hide the latency of an addition
  constexpr int most_vecs = sums / rows > 8 ? 8 : sums / rows < least_vecs ? least_vecs : sums / rows;
  const int64_t padded = E::padded(dim);
  const auto add = [&]<int vecs, bool part>() {
    constexpr int64_t bytes = vecs * width * int64_t{sizeof(typename E::T)};
    multiply_block<E, rows, vecs, part>(s, values, begin, end, dim, ahead.within(done, bytes), out, padded);
    done += bytes;
    values.first += vecs * width, out += vecs * width, dim -= vecs * width;
  };
  while (dim >= most_vecs * width) add.template operator()<most_vecs, false>();
  if constexpr (most_vecs > 4) if (dim >= 4 * width) add.template operator()<4, false>();
  if constexpr (most_vecs > 2) if (dim >= 2 * width) add.template operator()<2, false>();
  if constexpr (most_vecs > 1 && least_vecs == 1) if (dim >= width) add.template operator()<1, false>();
  if (dim > 0) add.template operator()<least_vecs, true>();
}

// Calls apply(rows as a constant, first row) for groups of rows.
template <class E, class Apply>
JAX_FA4_INLINE void for_each_group(int64_t rows, Apply apply) {
  for (int64_t first = 0; first < rows; first += E::group) {
    const int64_t here = E::rows_of_group(rows - first);
    if (here == 1) apply.template operator()<1>(first);
    if (here == 2) apply.template operator()<2>(first);
    if constexpr (E::group >= 4) if (here == 4) apply.template operator()<4>(first);
  }
}

// Calls apply(begin, end) for runs of the tile's keys that exist: values of others may be NaN, which 0 does not undo.
template <class Apply>
JAX_FA4_INLINE void for_each_existing_run(const Sequences& at, KeyTile keys, int64_t begin, int64_t end, Apply apply) {
  end = least(end, least(keys.count, at.key_length - keys.first));
  if (!at.key_segments) return begin < end ? apply(begin, end) : void();
  for (int64_t j = begin; j < end;) {
    int64_t next = j;
    while (next < end && at.key_exists(keys.first + next)) ++next;
    if (j < next) apply(j, next);
    j = next + 1;
  }
}

}  // namespace
