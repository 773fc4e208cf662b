// The engine for tdpbf16ps (AMX): tiles of 16 rows of 64 bytes, in registers of their own. A is in blocks of 16 of its
// rows, [depth / 32][16 rows][16 items].
//
// Products and the softmax alternate. To interleave them finely does not pay on Granite Rapids: for about 300 cycles
// after an instruction on tiles, multiply-adds of 64 bytes run on one port instead of two.
#pragma once

namespace {

// Not the compiler's intrinsics: those of GCC 12 take no template parameter and do not say that loads read memory.
template <int tile>
JAX_FA4_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}
template <int tile>
JAX_FA4_INLINE void tile_load(const void* from, int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(tile) : "memory");
}
template <int tile>
JAX_FA4_INLINE void tile_store(void* to, int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(tile) : "memory");
}
template <int sum, int left, int right>
JAX_FA4_INLINE void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(left), "i"(right));
}

// Where the operands of a product lie; strides of rows are in bytes.
struct TileOperands {
  const uint32_t *a, *b;
  int64_t a_row, a_step, a_block;  // step: 32 numbers along the depth; block: 16 rows
  int64_t b_row, b_column;         // column: 16 of them
  float* c;
  int64_t c_row;
  bool add;
};

// One tile of C, in register 6 or 7. Its store and the next tile's products overlap only if these come first; so what is
// stored is the `pending` tile before, in the other register, after the first product.
template <int sum, int left, int steps, bool loads_right>
JAX_FA4_INLINE void tile_of_c(const TileOperands& o, const uint32_t* b, float* c, float* pending) {
  if (o.add)
    tile_load<sum>(c, o.c_row);
  else
    tile_zero<sum>();
  if (loads_right) tile_load<4>(b, o.b_row);
  tile_multiply<sum, left, 4>();
  if (pending) tile_store<13 - sum>(pending, o.c_row);
  if constexpr (steps > 1) {
    if (loads_right) tile_load<5>(b + 4 * o.b_row, o.b_row);
    tile_multiply<sum, left + 1, 5>();
  }
  if constexpr (steps > 2) {
    tile_load<4>(b + 8 * o.b_row, o.b_row);
    tile_multiply<sum, left + 2, 4>();
  }
  if constexpr (steps > 3) {
    tile_load<5>(b + 12 * o.b_row, o.b_row);
    tile_multiply<sum, left + 3, 5>();
  }
}

template <int left, int steps>
JAX_FA4_INLINE void load_left_tiles(const TileOperands& o, const uint32_t* a) {
  tile_load<left>(a, o.a_row);
  if constexpr (steps > 1) tile_load<left + 1>(a + o.a_step, o.a_row);
  if constexpr (steps > 2) tile_load<left + 2>(a + 2 * o.a_step, o.a_row);
  if constexpr (steps > 3) tile_load<left + 3>(a + 3 * o.a_step, o.a_row);
}

// 16 rows of C, or 32 where the depth leaves registers for their A: that stays in registers, B passes by.
template <int steps>
void one_row_of_tiles(const TileOperands& o, int64_t columns) {
  load_left_tiles<0, steps>(o, o.a);
  const uint32_t* b = o.b;
  float *c = o.c, *pending = nullptr;
  for (; columns >= 32; columns -= 32, b += 2 * o.b_column, c += 32) {
    tile_of_c<6, 0, steps, true>(o, b, c, pending);
    tile_of_c<7, 0, steps, true>(o, b + o.b_column, c + 16, c);
    pending = c + 16;
  }
  if (columns > 0) tile_of_c<6, 0, steps, true>(o, b, c, pending);
  if (columns > 0)
    tile_store<6>(c, o.c_row);
  else
    tile_store<7>(pending, o.c_row);
}
template <int steps>
void two_rows_of_tiles(const TileOperands& o, int64_t columns) {
  load_left_tiles<0, steps>(o, o.a);
  load_left_tiles<2, steps>(o, o.a + o.a_block);
  const uint32_t* b = o.b;
  float *c = o.c, *pending = nullptr;
  for (; columns > 0; columns -= 16, b += o.b_column, c += 16) {
    float* const lower = c + 4 * o.c_row;
    tile_of_c<6, 0, steps, true>(o, b, c, pending);
    tile_of_c<7, 2, steps, false>(o, b, lower, c);
    pending = lower;
  }
  tile_store<7>(pending, o.c_row);
}

// Up to four steps along the depth.
void tile_products(TileOperands o, int64_t rows, int64_t columns, int64_t steps) {
  for (int64_t taken; rows > 0; rows -= taken, o.a += taken / 16 * o.a_block, o.c += taken * (o.c_row / 4)) {
    taken = steps < 3 && rows > 16 ? 32 : 16;
    if (taken == 32)
      steps == 1 ? two_rows_of_tiles<1>(o, columns) : two_rows_of_tiles<2>(o, columns);
    else if (steps < 3)
      steps == 1 ? one_row_of_tiles<1>(o, columns) : one_row_of_tiles<2>(o, columns);
    else
      steps == 3 ? one_row_of_tiles<3>(o, columns) : one_row_of_tiles<4>(o, columns);
  }
}

template <int64_t rows_of_tile>
struct Amx : Pairs<rows_of_tile, 16, 32> {
  using Base = Pairs<rows_of_tile, 16, 32>;
  using typename Base::Item;
  using typename Base::Real;
  using Base::items, Base::left_block, Base::left_offset, Base::left_rows, Base::tile_rows;

  static constexpr int64_t key_step = 32;  // the depth of one tile
  static constexpr int64_t row_step = 32;

  // All eight registers are whole tiles.
  struct Session : FlushSession {
    Session() {
      alignas(64) static constexpr struct {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
      } configuration;
      _tile_loadconfig(&configuration);
    }
    ~Session() { _tile_release(); }
  };

  // The tile unit falls asleep half a microsecond after its last product; to wake it takes as long as 50 products.
  static JAX_FA4_INLINE void keep_awake() { tile_multiply<7, 0, 4>(); }

  static void pack_left(Item* to, const Real* from, int64_t stride, int64_t rows, int64_t depth) {
    for (int64_t first = 0; first < rows; first += 16)
      for (int64_t k = 0; k < depth; k += 32)
        for (int64_t i = 0; i < 16; ++i, to += 16)
          store_items(to, first + i < rows ? items_of_row(from + (first + i) * stride + k, depth - k) : Vec<Real>{});
  }

  static void pack_left_transposed(Item* to, int64_t room, const Real* from, int64_t stride, int64_t rows,
                                   int64_t depth) {
    for (int64_t first = 0; first < rows; first += 16, to += left_block(room))
      for (int64_t k = 0; k < depth; k += 32) {
        Vec<Real> square[16];
        for (int64_t i = 0; i < 16; ++i) {
          const Real* row = from + (k + 2 * i) * stride + first;
          square[i] = items_of_rows(load_first(row, rows - first), load_first(row + stride, rows - first));
        }
        transpose_square<Real>(square);
        for (int64_t i = 0; i < 16; ++i) store_items(to + left_offset(k) + 16 * i, square[i]);
      }
  }

  // Tile by tile: those of 16 columns follow each other along the depth.
  static void pack_right(Item* to, const Real* from, int64_t stride, int64_t columns, int64_t depth) {
    for (int64_t c = 0; c < columns; c += 16, to += 16 * items(tile_rows))
      for (int64_t k = 0; k < depth; k += 2) {
        const Real* row = from + k * stride + c;
        store_items(to + 8 * k, items_of_rows(load(row), load(row + stride)));
      }
  }

  static void multiply(int64_t rows, int64_t columns, int64_t depth, Real* c, int64_t c_stride, const Item* a,
                       int64_t a_block, const Item* b, int64_t b_stride, bool add) {
    const TileOperands o = {a, b, 64, left_block(32), a_block, 4 * b_stride, 16, c, 4 * c_stride, add};
    product(o, rows, columns, depth);
  }
  static void multiply_rows(int64_t rows, int64_t columns, int64_t first_row, int64_t depth, Real* c, int64_t c_stride,
                            const Item* a, const Item* b) {
    constexpr int64_t a_row = items(tile_rows), b_column = 16 * items(tile_rows);
    const TileOperands o = {a + first_row / 2, b + 8 * first_row, 4 * a_row, 16, left_rows * a_row, 64, b_column, c,
                            4 * c_stride, true};
    product(o, rows, columns, depth);
  }

 private:
  static void product(TileOperands o, int64_t rows, int64_t columns, int64_t depth) {
    for (int64_t steps = items(depth) / 16; steps > 0; steps -= 4, o.add = true) {
      tile_products(o, rows, columns, least(steps, 4));
      o.a += 4 * o.a_step;
      o.b += 16 * o.b_row;
    }
  }
};

struct AmxEngines {
  using Forward = Amx<64>;
  using Backward = Amx<96>;
};

}  // namespace
