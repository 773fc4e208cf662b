// The engine for vdpbf16ps (AVX512-BF16), and how both engines for bfloat16 lay out their operands. An item is a pair of
// numbers, neighbours along the depth of the product: the first of them is the low half.
//
// Inputs were bfloat16 before they were widened, so that packing them rounds nothing. Probabilities and the gradients of
// logits are rounded: to nearest, ties to even. Products are summed in float.
#pragma once

namespace {

JAX_FA4_INLINE void store_items(uint32_t* to, Vec<float> items) { store(reinterpret_cast<float*>(to), items); }

// The first `count` of 32 numbers, the others 0, as 16 items.
JAX_FA4_INLINE Vec<float> items_of_row(const float* from, int64_t count) {
  const uint32_t there = count < 32 ? (uint32_t{1} << count) - 1 : ~uint32_t{0};
  return (Vec<float>)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(__mmask16(there >> 16), from + 16),
                                         _mm512_maskz_loadu_ps(__mmask16(there), from));
}

// 16 items of two rows, given one after the other: the numbers of the first are the low halves.
JAX_FA4_INLINE Vec<float> interleaved(__m512i rows) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                         23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (Vec<float>)_mm512_maskz_permutexvar_epi16(~__mmask32{0}, order, rows);
}
JAX_FA4_INLINE __m512i rounded(Vec<float> first, Vec<float> second) {
  return (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}
JAX_FA4_INLINE Vec<float> items_of_rows(Vec<float> first, Vec<float> second) {
  return interleaved(rounded(first, second));
}

// The same of numbers that are not negative, in 3 instructions for 5: ties are rounded up, and NaN may be lost.
JAX_FA4_INLINE Vec<float> items_of_magnitudes(Vec<float> first, Vec<float> second) {
  const Simd<float>::BitsVec low = (Simd<float>::BitsVec)first + 0x8000u, high = (Simd<float>::BitsVec)second + 0x8000u;
  const __m512i upper_halves = _mm512_set_epi8(15, 14, 15, 14, 11, 10, 11, 10, 7, 6, 7, 6, 3, 2, 3, 2,  //
                                               15, 14, 15, 14, 11, 10, 11, 10, 7, 6, 7, 6, 3, 2, 3, 2,  //
                                               15, 14, 15, 14, 11, 10, 11, 10, 7, 6, 7, 6, 3, 2, 3, 2,  //
                                               15, 14, 15, 14, 11, 10, 11, 10, 7, 6, 7, 6, 3, 2, 3, 2);
  return (Vec<float>)_mm512_mask_shuffle_epi8((__m512i)high, 0x3333333333333333, (__m512i)low, upper_halves);
}

JAX_FA4_INLINE Vec<float> load_first(const float* from, int64_t count) {
  return (Vec<float>)_mm512_maskz_loadu_ps(__mmask16((uint32_t{1} << least(count, 16)) - 1), from);
}

// What the engines share: B is [depth / 2][columns] items. Depths are rounded up to `depth_step` numbers.
template <int64_t rows_of_tile, int64_t rows_of_left, int64_t depth_step>
struct Pairs {
  using Real = float;
  using Item = uint32_t;
  static_assert(vector_bytes == 64);

  static constexpr int64_t tile_rows = rows_of_tile, tile_keys = 128;
  static constexpr int64_t left_rows = rows_of_left;
  static constexpr int64_t numbers = 2;
  static constexpr bool scales_query = false;  // it would be rounded
  static constexpr bool in_place = false;
  static constexpr bool flushes = true;

  static constexpr int64_t items(int64_t depth) { return (depth + depth_step - 1) / depth_step * (depth_step / 2); }
  static constexpr int64_t left_block(int64_t depth) { return left_rows * items(depth); }
  static constexpr int64_t left_size(int64_t rows, int64_t depth) {
    return (rows + left_rows - 1) / left_rows * left_block(depth);
  }
  static constexpr int64_t left_offset(int64_t depth_before) { return left_block(depth_before); }

  static void pack_right_transposed(Item* to, const Real* from, int64_t stride, int64_t columns, int64_t depth,
                                    Real factor) {
    for (int64_t k = 0; k < items(depth); k += 16)
      for (int64_t first = 0; first < tile_rows; first += 16) {
        Vec<Real> square[16] = {};
        for (int64_t i = 0; i < 16 && first + i < columns; ++i)
          square[i] = items_of_row(from + (first + i) * stride + 2 * k, depth - 2 * k);
        if (factor < 0)  // -1
          for (int64_t i = 0; i < 16; ++i) square[i] = (Vec<Real>)((IntVec<Real>)square[i] ^ int32_t(0x80008000));
        transpose_square<Real>(square);
        for (int64_t i = 0; i < 16 && k + i < items(depth); ++i)
          store_items(to + (k + i) * tile_rows + first, square[i]);
      }
  }

  static JAX_FA4_INLINE void store_right(Item* to, int64_t key, int64_t r, const Vec<Real>* of_keys) {
    store_items(to + key / 2 * tile_rows + r, items_of_magnitudes(of_keys[0], of_keys[1]));
  }
  static JAX_FA4_INLINE void store_left(Item* to, int64_t key, int64_t r, const Vec<Real>* of_keys) {
    store_rows(to, key, r, rounded(of_keys[0], of_keys[1]));
  }
  static JAX_FA4_INLINE void store_both(Item* left, Item* right, int64_t key, int64_t r, const Vec<Real>* of_keys) {
    const __m512i rows = rounded(of_keys[0], of_keys[1]);
    store_rows(left, key, r, rows);
    store_items(right + key / 2 * tile_rows + r, interleaved(rows));
  }

 private:
  static JAX_FA4_INLINE void store_rows(Item* to, int64_t key, int64_t r, __m512i rows) {
    const auto first = __builtin_shufflevector(rows, rows, 0, 1, 2, 3);
    const auto second = __builtin_shufflevector(rows, rows, 4, 5, 6, 7);
    uint16_t* const at = reinterpret_cast<uint16_t*>(to) + key * tile_rows + r;
    memcpy(at, &first, sizeof first);
    memcpy(at + tile_rows, &second, sizeof second);
  }
};

// Subnormal results become 0: exp2 then need not avoid them, which take hundreds of cycles.
struct FlushSession {
  const unsigned before = _mm_getcsr();
  FlushSession() { _mm_setcsr(before | _MM_FLUSH_ZERO_ON); }
  ~FlushSession() { _mm_setcsr(before); }
};

// vdpbf16ps as the multiply-add of matmul.h.
struct DotAdd {
  using Real = float;
  using Item = uint32_t;

  static JAX_FA4_INLINE Vec<float> load(const Item* from) { return ::load(reinterpret_cast<const float*>(from)); }
  static JAX_FA4_INLINE Vec<float> broadcast(Item x) { return (Vec<float>)_mm512_set1_epi32(int32_t(x)); }
  static JAX_FA4_INLINE Vec<float> add(Vec<float> sum, Vec<float> left, Vec<float> right) {
    return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
  }
};

// A is in blocks of 8 of its rows, [depth / 2][8] items.
template <int64_t rows_of_tile>
struct Dot : Pairs<rows_of_tile, left_rows_of_fma, 2> {
  using Base = Pairs<rows_of_tile, left_rows_of_fma, 2>;
  using typename Base::Item;
  using typename Base::Real;
  using Base::items, Base::left_block, Base::left_rows, Base::tile_rows;

  static constexpr int64_t key_step = left_rows;
  static constexpr int64_t row_step = lanes<Real>;

  using Session = FlushSession;
  static void keep_awake() {}

  static void pack_left(Item* to, const Real* from, int64_t stride, int64_t rows, int64_t depth) {
    const int64_t block = left_block(depth), all = items(depth);
    for (int64_t first = 0; first < rows; first += 16, to += 2 * block)
      for (int64_t k = 0; k < all; k += 16) {
        Vec<Real> square[16] = {};
        for (int64_t i = 0; i < 16 && first + i < rows; ++i)
          square[i] = items_of_row(from + (first + i) * stride + 2 * k, depth - 2 * k);
        transpose_square<Real>(square);
        for (int64_t i = 0; i < 16 && k + i < all; ++i) store_halves(to + (k + i) * 8, block, rows - first, square[i]);
      }
  }

  static void pack_left_transposed(Item* to, int64_t room, const Real* from, int64_t stride, int64_t rows,
                                   int64_t depth) {
    const int64_t block = left_block(room);
    for (int64_t first = 0; first < rows; first += 16, to += 2 * block)
      for (int64_t k = 0; k < depth; k += 2) {
        const Real* row = from + k * stride + first;
        store_halves(to + k / 2 * 8, block, rows - first,
                     items_of_rows(load_first(row, rows - first), load_first(row + stride, rows - first)));
      }
  }

  static void pack_right(Item* to, const Real* from, int64_t stride, int64_t columns, int64_t depth) {
    for_each_panel<Real>(columns, [&](int64_t column, int64_t vecs) {
      Item* at = to + column * items(tile_rows);
      for (int64_t k = 0; k < depth; k += 2) {
        const Real* row = from + k * stride + column;
        for (int64_t c = 0; c < vecs * 16; c += 16, at += 16)
          store_items(at, items_of_rows(load(row + c), load(row + stride + c)));
      }
    });
  }

  static void multiply(int64_t rows, int64_t columns, int64_t depth, Real* c, int64_t c_stride, const Item* a,
                       int64_t a_block, const Item* b, int64_t b_stride, bool add) {
    product<DotAdd>(rows, columns, items(depth), c, c_stride, a, a_block, b, b_stride, add);
  }
  static void multiply_rows(int64_t rows, int64_t columns, int64_t first_row, int64_t depth, Real* c, int64_t c_stride,
                            const Item* a, const Item* b) {
    product_of_rows<DotAdd, tile_rows / 2>(rows, columns, items(first_row), items(depth), c, c_stride, a, b,
                                           items(tile_rows));
  }

 private:
  // Items of 16 rows into two blocks, the second only where it has rows.
  static JAX_FA4_INLINE void store_halves(Item* to, int64_t block, int64_t rows, Vec<Real> items) {
    memcpy(to, &items, 32);
    if (rows > 8) memcpy(to + block, reinterpret_cast<const char*>(&items) + 32, 32);
  }
};

struct DotEngines {
  using Forward = Dot<48>;
  using Backward = Dot<96>;
};

}  // namespace
