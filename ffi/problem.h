// One call of attention as plain data: what spec.cc decodes from XLA's buffers and every kernel reads.
// Included by units compiled for different instruction sets, so its functions are always inlined: none may become a
// symbol that the linker shares between them.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace jax_fa4 {

#define JAX_FA4_INLINE inline __attribute__((always_inline))

enum class Element { f32, bf16, f16, f64, i32, boolean };

JAX_FA4_INLINE int64_t bytes_of(Element element) {
  switch (element) {
    case Element::f64: return 8;
    case Element::f32: case Element::i32: return 4;
    case Element::bf16: case Element::f16: return 2;
    case Element::boolean: return 1;
  }
  return 1;
}

constexpr int max_batch_axes = 8;

// Where entry b of the call's batch lies in an operand: a mixed-radix number over the batch axes.
struct BatchView {
  int axes = 0;
  int64_t extent[max_batch_axes] = {};  // of the call
  int64_t stride[max_batch_axes] = {};  // in elements; 0 where the operand is shared along that axis

  JAX_FA4_INLINE int64_t offset(int64_t batch) const {
    int64_t result = 0;
    for (int axis = axes - 1; axis >= 0; --axis) {
      result += batch % extent[axis] * stride[axis];
      batch /= extent[axis];
    }
    return result;
  }
};

// A result that several batch entries add to: its slabs, and the entries that share each, in a fixed order.
struct SharedBatches {
  int64_t slabs = 1;
  int64_t sharers = 1;
  int axes = 0;
  int64_t extent[max_batch_axes] = {};
  bool shared[max_batch_axes] = {};

  JAX_FA4_INLINE int64_t batch(int64_t slab, int64_t sharer) const {
    int64_t result = 0, place = 1;
    for (int axis = axes - 1; axis >= 0; --axis) {
      int64_t& from = shared[axis] ? sharer : slab;
      result += from % extent[axis] * place;
      from /= extent[axis];
      place *= extent[axis];
    }
    return result;
  }
};

// An operand or a result; data is null where it is absent.
struct Operand {
  void* data = nullptr;
  Element element = Element::f32;
  BatchView batch;

  JAX_FA4_INLINE explicit operator bool() const { return data != nullptr; }
};

// Bias, mask or the gradient of bias: broadcast along the axes whose stride is 0.
struct LogitsOperand : Operand {
  int64_t head_stride = 0;
  int64_t query_stride = 0;
  int64_t key_stride = 0;
};

struct Gradients {
  Operand query, key, value;
  LogitsOperand bias;
  Operand sinks, alibi_slopes;
  SharedBatches bias_batches, sinks_batches, slopes_batches;
};

struct Problem {
  int64_t batch = 0;
  int64_t query_length = 0, key_length = 0;
  int64_t query_heads = 0, key_value_heads = 0;
  int64_t head_dim = 0, value_head_dim = 0;

  double scale = 1;
  double soft_cap = 0;                            // 0: none
  int64_t window_left = -1, window_right = -1;    // -1: no limit on that side
  bool differentiated = false;                    // a backward call follows, whose probabilities must be rounded alike

  Operand query, key, value;
  LogitsOperand bias, mask;
  Operand sinks, alibi_slopes, query_segment_ids, key_value_segment_ids;
  Operand query_seq_lengths, key_value_seq_lengths, query_offset;

  Operand output, log_sum_exp;                    // forward: results; backward: residuals
  Operand output_gradient, log_sum_exp_gradient;  // backward only
  Gradients gradients;

  JAX_FA4_INLINE int64_t group() const { return query_heads / key_value_heads; }
  JAX_FA4_INLINE bool double_precision() const { return query.element == Element::f64; }
};

}  // namespace jax_fa4
