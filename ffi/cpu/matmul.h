// The one matrix product of the kernels: C[i][:] (+)= sum over k of A(i, k) * B[k][:].
// Vectors run along the rows of B and C; elements of A are broadcast, so A may be read transposed for free.
#pragma once

namespace {

// A(i, k) lies at data[i * row + k * step].
template <class Real>
struct Broadcast {
  const Real* data;
  int64_t row, step;
};

template <class Real>
struct Panel {
  Real* data;
  int64_t stride;  // elements from one row to the next
};

constexpr int block_rows = 6;                           // with block_vecs accumulators each, B's row and one of A
constexpr int block_vecs = registers == 32 ? 4 : 2;

template <class Real, int Rows, int Vecs>
void product_block(Panel<Real> c, Broadcast<Real> a, Panel<const Real> b, int64_t depth, bool add) {
  constexpr int64_t width = lanes<Real>;
  Vec<Real> sum[Rows][Vecs];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) sum[i][v] = add ? load(c.data + i * c.stride + v * width) : Vec<Real>{};

  const Real* left = a.data;
  const Real* right = b.data;
  for (int64_t k = 0; k < depth; ++k, left += a.step, right += b.stride) {
    Vec<Real> row[Vecs];
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) row[v] = load(right + v * width);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const Vec<Real> factor = broadcast(left[i * a.row]);
#pragma GCC unroll 8
      for (int v = 0; v < Vecs; ++v) sum[i][v] += factor * row[v];
    }
  }

#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) store(c.data + i * c.stride + v * width, sum[i][v]);
}

template <class Real, int Vecs>
void product_rows(int64_t rows, Panel<Real> c, Broadcast<Real> a, Panel<const Real> b, int64_t depth, bool add) {
  for (; rows >= block_rows; rows -= block_rows) {
    product_block<Real, block_rows, Vecs>(c, a, b, depth, add);
    c.data += block_rows * c.stride;
    a.data += block_rows * a.row;
  }
  switch (rows) {
    case 5: return product_block<Real, 5, Vecs>(c, a, b, depth, add);
    case 4: return product_block<Real, 4, Vecs>(c, a, b, depth, add);
    case 3: return product_block<Real, 3, Vecs>(c, a, b, depth, add);
    case 2: return product_block<Real, 2, Vecs>(c, a, b, depth, add);
    case 1: return product_block<Real, 1, Vecs>(c, a, b, depth, add);
    default: return;
  }
}

// `columns` is a multiple of the lanes. With `add` the product is added to C, else C is overwritten.
template <class Real>
void product(int64_t rows, int64_t columns, int64_t depth, Panel<Real> c, Broadcast<Real> a, Panel<const Real> b,
             bool add) {
  constexpr int64_t wide = block_vecs * lanes<Real>;
  for (; columns >= wide; columns -= wide, c.data += wide, b.data += wide)
    product_rows<Real, block_vecs>(rows, c, a, b, depth, add);
  for (; columns > 0; columns -= lanes<Real>, c.data += lanes<Real>, b.data += lanes<Real>)
    product_rows<Real, 1>(rows, c, a, b, depth, add);
}

}  // namespace
