// Transposition in registers. A vector is seen as pieces of 16 bytes: first each piece's place is transposed among its
// neighbours, then the pieces as wholes, by shuffles that every instruction set has as one instruction.
#pragma once

namespace {

template <class Real, int64_t bytes>
struct Sized {
  typedef Real Type __attribute__((vector_size(bytes)));
};
template <class Real, int64_t bytes>
using SizedVec = typename Sized<Real, bytes>::Type;

template <class Real>
constexpr int64_t of_a_piece = 16 / int64_t{sizeof(Real)};

// a0 b0 a1 b1, the low halves of pieces of a and b in turn, and a2 b2 a3 b3, the high ones.
template <class V>
JAX_FA4_INLINE V interleave_low(V a, V b) {
  constexpr int64_t count = sizeof(V) / sizeof(a[0]);
  if constexpr (sizeof(a[0]) == 4) {
    if constexpr (count == 4) return __builtin_shufflevector(a, b, 0, 4, 1, 5);
    if constexpr (count == 8) return __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
    if constexpr (count == 16)
      return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
  } else {
    if constexpr (count == 2) return __builtin_shufflevector(a, b, 0, 2);
    if constexpr (count == 4) return __builtin_shufflevector(a, b, 0, 4, 2, 6);
    if constexpr (count == 8) return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
  }
}

template <class V>
JAX_FA4_INLINE V interleave_high(V a, V b) {
  constexpr int64_t count = sizeof(V) / sizeof(a[0]);
  if constexpr (sizeof(a[0]) == 4) {
    if constexpr (count == 4) return __builtin_shufflevector(a, b, 2, 6, 3, 7);
    if constexpr (count == 8) return __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    if constexpr (count == 16)
      return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  } else {
    if constexpr (count == 2) return __builtin_shufflevector(a, b, 1, 3);
    if constexpr (count == 4) return __builtin_shufflevector(a, b, 1, 5, 3, 7);
    if constexpr (count == 8) return __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
  }
}

// Whole pieces, as pairs of doubles: the first and the second halves of a and b; the even and the odd pieces of both.
template <class V>
JAX_FA4_INLINE V first_halves(V a, V b) {
  if constexpr (sizeof(V) == 32) return __builtin_shufflevector(a, b, 0, 1, 4, 5);
  if constexpr (sizeof(V) == 64) return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
}

template <class V>
JAX_FA4_INLINE V second_halves(V a, V b) {
  if constexpr (sizeof(V) == 32) return __builtin_shufflevector(a, b, 2, 3, 6, 7);
  if constexpr (sizeof(V) == 64) return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}

template <class V>
JAX_FA4_INLINE V even_pieces(V a, V b) {
  return __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13);
}

template <class V>
JAX_FA4_INLINE V odd_pieces(V a, V b) {
  return __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15);
}

// The same place of each piece of the vectors, as if pieces were alone: a square of 4 floats or 2 doubles.
template <class Real, class V>
JAX_FA4_INLINE void transpose_pieces(V* v) {
  if constexpr (of_a_piece<Real> == 2) {
    const V a = v[0], b = v[1];
    v[0] = interleave_low(a, b);
    v[1] = interleave_high(a, b);
  } else {
    const V a = interleave_low(v[0], v[2]), b = interleave_high(v[0], v[2]);
    const V c = interleave_low(v[1], v[3]), d = interleave_high(v[1], v[3]);
    v[0] = interleave_low(a, c);
    v[1] = interleave_high(a, c);
    v[2] = interleave_low(b, d);
    v[3] = interleave_high(b, d);
  }
}

template <class Real, int64_t count>
JAX_FA4_INLINE void transpose_registers(SizedVec<Real, count * int64_t{sizeof(Real)}> (&rows)[count]) {
  using V = SizedVec<Real, count * int64_t{sizeof(Real)}>;
  using Pieces = SizedVec<double, int64_t{sizeof(V)}>;
  constexpr int64_t piece = of_a_piece<Real>;
#pragma GCC unroll 16
  for (int64_t i = 0; i < count; i += piece) transpose_pieces<Real>(rows + i);
#pragma GCC unroll 16
  for (int64_t i = 0; i < piece; ++i) {
    if constexpr (sizeof(V) == 32) {
      const Pieces a = (Pieces)rows[i], b = (Pieces)rows[i + piece];
      rows[i] = (V)first_halves(a, b);
      rows[i + piece] = (V)second_halves(a, b);
    } else if constexpr (sizeof(V) == 64) {
      const Pieces a = (Pieces)rows[i], b = (Pieces)rows[i + piece];
      const Pieces c = (Pieces)rows[i + 2 * piece], d = (Pieces)rows[i + 3 * piece];
      const Pieces ab = first_halves(a, b), cd = first_halves(c, d);
      const Pieces ab_last = second_halves(a, b), cd_last = second_halves(c, d);
      rows[i] = (V)even_pieces(ab, cd);
      rows[i + piece] = (V)odd_pieces(ab, cd);
      rows[i + 2 * piece] = (V)even_pieces(ab_last, cd_last);
      rows[i + 3 * piece] = (V)odd_pieces(ab_last, cd_last);
    }
  }
}

// rows[i][j] becomes rows[j][i].
template <class Real>
JAX_FA4_INLINE void transpose_square(Vec<Real> (&rows)[lanes<Real>]) {
  transpose_registers<Real, lanes<Real>>(rows);
}

#if defined(__AVX__)
template <class Real>
JAX_FA4_INLINE __m128 load_piece(const Real* p) {
  __m128 v;
  memcpy(&v, p, sizeof v);
  return v;
}
#endif

// The pieces at p, p + step and, in a vector of four, p + second, p + second + step. The loads put them in their place:
// that needs no shuffle.
template <class Real, int64_t bytes>
JAX_FA4_INLINE SizedVec<Real, bytes> load_pieces(const Real* p, [[maybe_unused]] int64_t step,
                                                [[maybe_unused]] int64_t second) {
  using V = SizedVec<Real, bytes>;
  V v;
  if constexpr (bytes == 16) {
    memcpy(&v, p, sizeof v);
  } else if constexpr (bytes == 32) {
#if defined(__AVX__)
    v = (V)_mm256_insertf128_ps(_mm256_castps128_ps256(load_piece(p)), load_piece(p + step), 1);
#endif
  } else {
#if defined(__AVX512F__)
    __m512 pieces = _mm512_castps256_ps512((__m256)load_pieces<Real, 32>(p, step, 0));
    pieces = _mm512_maskz_insertf32x4(all_lanes, pieces, load_piece(p + second), 2);
    v = (V)_mm512_maskz_insertf32x4(all_lanes, pieces, load_piece(p + second + step), 3);
#endif
  }
  return v;
}

// `rows` in groups that fill vectors of `bytes`, what remains by shorter ones.
template <class Real, int64_t bytes>
JAX_FA4_INLINE void transpose_rows(Real* to, int64_t to_stride, const Real* from, int64_t from_stride, int64_t rows,
                                   int64_t columns) {
  constexpr int64_t piece = of_a_piece<Real>, width = bytes / int64_t{sizeof(Real)};
  const int64_t whole = columns / piece * piece;
  for (; rows >= width; rows -= width, from += width * from_stride, to += width) {
    for (int64_t c = 0; c < whole; c += piece) {
      SizedVec<Real, bytes> v[piece];
#pragma GCC unroll 4
      for (int64_t i = 0; i < piece; ++i)
        v[i] = load_pieces<Real, bytes>(from + i * from_stride + c, piece * from_stride, 2 * piece * from_stride);
      transpose_pieces<Real>(v);
#pragma GCC unroll 4
      for (int64_t i = 0; i < piece; ++i) memcpy(to + (c + i) * to_stride, v + i, sizeof v[i]);
    }
    for (int64_t c = whole; c < columns; ++c)
      for (int64_t r = 0; r < width; ++r) to[c * to_stride + r] = from[r * from_stride + c];
  }
  if constexpr (bytes > 16) {
    transpose_rows<Real, bytes / 2>(to, to_stride, from, from_stride, rows, columns);
  } else {
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = 0; r < rows; ++r) to[c * to_stride + r] = from[r * from_stride + c];
  }
}

// to[c][r] = from[r][c]. In squares of cache lines (64 bytes) where vectors are shorter than these.
template <class Real>
void transpose(Real* to, int64_t to_stride, const Real* from, int64_t from_stride, int64_t rows, int64_t columns) {
  constexpr int64_t line = 64 / int64_t{sizeof(Real)};
  const int64_t rows_at_once = vector_bytes == 64 ? rows : line, columns_at_once = vector_bytes == 64 ? columns : line;
  for (int64_t r = 0; r < rows; r += rows_at_once)
    for (int64_t c = 0; c < columns; c += columns_at_once)
      transpose_rows<Real, vector_bytes>(to + c * to_stride + r, to_stride, from + r * from_stride + c, from_stride,
                                         rows - r < rows_at_once ? rows - r : rows_at_once,
                                         columns - c < columns_at_once ? columns - c : columns_at_once);
}

}  // namespace
