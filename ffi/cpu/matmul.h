// The matrix products of the kernels: C[i][:] (+)= sum over k of A(i, k) * B[k][:].
//
// Vectors run along the rows of B and C; elements of A are broadcast. A is packed: blocks of `left_rows` of its rows lie
// side by side, so that the innermost loop reads both operands as streams and has no address to compute. (Rows of A read
// with their own strides cost a tenth of the speed: more addresses than registers, and conflicts in the cache.)
//
// An engine is one way to multiply; the kernels are written over it. This file has the one that works with ordinary
// fused multiply-adds in the type that is computed in; pairs.h and amx.h multiply pairs of bfloat16.
#pragma once

namespace {

constexpr int64_t left_rows_of_fma = 8;
constexpr int64_t left_prefetch = 128;  // steps of the depth, 4 KiB of float

// How sums take up products of items.
template <class Real_>
struct MultiplyAdd {
  using Real = Real_;
  using Item = Real;

  static JAX_FA4_INLINE Vec<Real> load(const Item* from) { return ::load(from); }
  static JAX_FA4_INLINE Vec<Real> broadcast(Item x) { return ::broadcast(x); }
  static JAX_FA4_INLINE Vec<Real> add(Vec<Real> sum, Vec<Real> left, Vec<Real> right) { return sum + left * right; }
};

// One block of C in registers. What it is added to comes last: sums of sums lose less than one long sum.
// A(i, k) = a[i * row + k * step]: constants, which become part of the instructions.
template <class M, int Rows, int Vecs, int64_t row, int64_t step>
void product_block(typename M::Real* c, int64_t c_stride, const typename M::Item* a, const typename M::Item* b,
                   int64_t b_stride, int64_t depth, bool add) {
  using Real = typename M::Real;
  constexpr int64_t width = lanes<Real>;
  Vec<Real> sum[Rows][Vecs];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) sum[i][v] = Vec<Real>{};

  // Few rounds, as many each time: their end is foreseen.
#pragma GCC unroll 4
  for (int64_t k = 0; k < depth; ++k, a += step, b += b_stride) {
    // A packed A may be far away, and is read only once: its next blocks are asked for in time.
    if (row == 1) __builtin_prefetch(a + left_prefetch * step);
    Vec<Real> right[Vecs];
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) right[v] = M::load(b + v * width);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const Vec<Real> left = M::broadcast(a[i * row]);
#pragma GCC unroll 8
      for (int v = 0; v < Vecs; ++v) sum[i][v] = M::add(sum[i][v], left, right[v]);
    }
  }

#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) {
      Real* to = c + i * c_stride + v * width;
      store(to, add ? load(to) + sum[i][v] : sum[i][v]);
    }
}

// How many rows of C go with so many vectors: accumulators enough to hide the latency of an addition, and few enough
// to stay in registers beside a row of B and an element of A.
template <int Vecs>
constexpr int rows_in_registers = registers == 32 ? (Vecs == 4 ? 4 : 8) : (Vecs == 1 ? 8 : 4);
constexpr int most_vecs = registers == 32 ? 4 : 3;

// Vectors of a row of C that one block takes, of those that are left: no single one is left over beside others.
constexpr int64_t vecs_of_block(int64_t left) { return left == most_vecs || left < 3 ? left : left == 4 ? 2 : 3; }

template <class M, int Vecs, int64_t row, int64_t step>
void product_rows(int64_t rows, typename M::Real* c, int64_t c_stride, const typename M::Item* a, int64_t a_block,
                  const typename M::Item* b, int64_t b_stride, int64_t depth, bool add) {
  constexpr int at_once = rows_in_registers<Vecs>;
  for (int64_t i = 0; i < rows; i += at_once, c += at_once * c_stride)
    product_block<M, at_once, Vecs, row, step>(
        c, c_stride, a + i / left_rows_of_fma * a_block + i % left_rows_of_fma * row, b, b_stride, depth, add);
}

// How a product walks B's columns: `vecs` of them at a time, from the left.
template <class Real, class Apply>
JAX_FA4_INLINE void for_each_panel(int64_t columns, Apply apply) {
  int64_t left = columns / lanes<Real>, column = 0;
  for (int64_t vecs; left > 0; left -= vecs, column += vecs * lanes<Real>) {
    vecs = vecs_of_block(left);
    apply(column, vecs);
  }
}

template <class M, int64_t row, int64_t step>
void product_panel(int64_t vecs, int64_t rows, int64_t depth, typename M::Real* c, int64_t c_stride,
                   const typename M::Item* a, int64_t a_block, const typename M::Item* b, int64_t b_stride, bool add) {
  switch (vecs) {
    case 1: return product_rows<M, 1, row, step>(rows, c, c_stride, a, a_block, b, b_stride, depth, add);
    case 2: return product_rows<M, 2, row, step>(rows, c, c_stride, a, a_block, b, b_stride, depth, add);
    case 3: return product_rows<M, 3, row, step>(rows, c, c_stride, a, a_block, b, b_stride, depth, add);
    default: return product_rows<M, most_vecs, row, step>(rows, c, c_stride, a, a_block, b, b_stride, depth, add);
  }
}

// C (+)= A B with packed A and B. `rows` is rounded up to whole blocks: C has room for them, and A's are there.
template <class M>
void product(int64_t rows, int64_t columns, int64_t depth, typename M::Real* c, int64_t c_stride,
             const typename M::Item* a, int64_t a_block, const typename M::Item* b, int64_t b_stride, bool add) {
  for_each_panel<typename M::Real>(columns, [&](int64_t column, int64_t vecs) {
    product_panel<M, 1, left_rows_of_fma>(vecs, rows, depth, c + column, c_stride, a, a_block, b + column, b_stride,
                                          add);
  });
}

// C += A B where A's rows, `stride` items apart, are keys of a tile of logits and its depth their rows, from `first` on.
// B has room for `room` items along the depth and lies panel by panel of columns: rows of it that were a power of two
// apart would evict each other.
template <class M, int64_t stride>
void product_of_rows(int64_t rows, int64_t columns, int64_t first, int64_t depth, typename M::Real* c,
                     int64_t c_stride, const typename M::Item* a, const typename M::Item* b, int64_t room) {
  using Real = typename M::Real;
  for_each_panel<Real>(columns, [&](int64_t column, int64_t vecs) {
    const int64_t width = vecs * lanes<Real>;
    product_panel<M, stride, 1>(vecs, rows, depth, c + column, c_stride, a + first, left_rows_of_fma * stride,
                                b + column * room + first * width, width, true);
  });
}

// Fused multiply-adds in Real, for tiles of `rows_` rows.
template <class Real_, int64_t rows_>
struct Fma {
  using Real = Real_;
  using Item = Real;  // what the operands A and B are made of

  static constexpr int64_t tile_rows = rows_, tile_keys = 128;
  static constexpr int64_t left_rows = left_rows_of_fma;  // rows of C come in blocks of so many
  static constexpr int64_t numbers = 1;                   // in an item, neighbours along the depth
  static constexpr int64_t key_step = left_rows;          // runs of keys are multiples of it, as rows and as a depth
  static constexpr int64_t row_step = lanes<Real>;        // and runs of query rows of this
  static constexpr bool scales_query = true;              // the softmax scale is part of the packed query

  static constexpr bool flushes = false;  // subnormal results become 0

  struct Session {  // what a thread holds while it multiplies
    Session() {}
  };
  static void keep_awake() {}  // called every few hundred nanoseconds between products

  static constexpr int64_t items(int64_t depth) { return depth; }
  // Items of a packed A, and from one block of its rows to the next.
  static constexpr int64_t left_block(int64_t depth) { return left_rows * depth; }
  static constexpr int64_t left_size(int64_t rows, int64_t depth) {
    return (rows + left_rows - 1) / left_rows * left_block(depth);
  }
  // Where a number along the depth of A lies.
  static constexpr int64_t left_offset(int64_t depth_before) { return depth_before * left_rows; }

  // A(i, k) = from[i * stride + k]; rows up to a whole block are 0.
  static void pack_left(Item* to, const Real* from, int64_t stride, int64_t rows, int64_t depth) {
    for (int64_t first = 0; first < rows; first += left_rows, to += left_block(depth)) {
      const int64_t there = least(left_rows, rows - first);
      transpose(to, left_rows, from + first * stride, stride, there, depth);
      for (int64_t k = 0; k < depth && there < left_rows; ++k)
        for (int64_t i = there; i < left_rows; ++i) to[k * left_rows + i] = 0;
    }
  }

  // A(i, k) = from[k * stride + i] for k < depth, in blocks that have room for `room` along the depth.
  static void pack_left_transposed(Item* to, int64_t room, const Real* from, int64_t stride, int64_t rows,
                                   int64_t depth) {
    for (int64_t first = 0; first < rows; first += left_rows, to += left_block(room)) {
      const int64_t there = least(left_rows, rows - first);
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t i = 0; i < left_rows; ++i) to[k * left_rows + i] = i < there ? from[k * stride + first + i] : 0;
    }
  }

  // B[k][c] = from[k * stride + c], for multiply_rows.
  static void pack_right(Item* to, const Real* from, int64_t stride, int64_t columns, int64_t depth) {
    for_each_panel<Real>(columns, [&](int64_t column, int64_t vecs) {
      const int64_t width = vecs * lanes<Real>;
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t c = 0; c < width; c += lanes<Real>)
          store(to + column * tile_rows + k * width + c, load(from + k * stride + column + c));
    });
  }

  // B[k][c] = from[c * stride + k] times factor; columns up to tile_rows are 0.
  static void pack_right_transposed(Item* to, const Real* from, int64_t stride, int64_t columns, int64_t depth,
                                    Real factor) {
    transpose(to, tile_rows, from, stride, columns, depth);
    for (int64_t k = 0; k < depth; ++k, to += tile_rows)
      for (int64_t c = 0; c < tile_rows; ++c) to[c] = c < columns ? to[c] * factor : 0;
  }

  // Of `numbers` keys of a tile: probabilities as B[key][row], which may lose NaN, and as A(key, row); gradients of
  // logits as both. Here all are in place, where logits were.
  static constexpr bool in_place = true;
  static JAX_FA4_INLINE void store_right(Item* to, int64_t key, int64_t r, const Vec<Real>* of_keys) {
    store(to + key * tile_rows + r, of_keys[0]);
  }
  static JAX_FA4_INLINE void store_left(Item* to, int64_t key, int64_t r, const Vec<Real>* of_keys) {
    store(to + key * tile_rows + r, of_keys[0]);
  }
  static JAX_FA4_INLINE void store_both(Item*, Item* right, int64_t key, int64_t r, const Vec<Real>* of_keys) {
    store(right + key * tile_rows + r, of_keys[0]);
  }

  // C (+)= A B, see product.
  static void multiply(int64_t rows, int64_t columns, int64_t depth, Real* c, int64_t c_stride, const Item* a,
                       int64_t a_block, const Item* b, int64_t b_stride, bool add) {
    product<MultiplyAdd<Real>>(rows, columns, depth, c, c_stride, a, a_block, b, b_stride, add);
  }
  // C += A B, see product_of_rows; A by store_left, B by pack_right.
  static void multiply_rows(int64_t rows, int64_t columns, int64_t first_row, int64_t depth, Real* c, int64_t c_stride,
                            const Item* a, const Item* b) {
    product_of_rows<MultiplyAdd<Real>, tile_rows>(rows, columns, first_row, depth, c, c_stride, a, b, tile_rows);
  }
};

// Rows are a depth in the backward pass: more of them cost fewer sums to be read and written, but longer sums.
template <class Real>
struct FmaEngines {
  using Forward = Fma<Real, 48>;
  using Backward = Fma<Real, sizeof(Real) == 8 ? 48 : 96>;
};

}  // namespace
