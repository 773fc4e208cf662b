// What jax_fa4/calls.py promises, as a table, and a judgement from it that shares nothing with ffi/spec.cc.
#pragma once

#include <span>

#include "call_frame.h"

enum class Kind { query_float, any_float, accumulator, boolean, index };

// `axes`, behind the batch axes: T and S lengths, N and K heads, H and V dimensions; a small letter: that extent or 1.
struct Row {
  const char* name;
  const char* axes;
  Kind kind;
  bool optional;    // may have the shape (0,)
  bool full_batch;  // no batch axis may be shared
};

std::span<const Row> operand_rows(bool backward);
std::span<const Row> result_rows(bool backward);

struct Extents {
  Dims batch;
  int64_t T = 0, S = 0, N = 1, K = 1, H = 1, V = 1;

  int64_t of(char letter) const {
    switch (letter) {
      case 'T': case 't': return T;
      case 'S': case 's': return S;
      case 'N': case 'n': return N;
      case 'K': return K;
      case 'H': return H;
      default: return V;
    }
  }
};

inline bool is_absent(const Buffer& buffer) { return buffer.dims == Dims{0}; }
bool is_float(XLA_FFI_DataType type);

// Of every batch axis the one extent that is not 1; false where operands disagree.
bool read_batch(const Call& call, size_t axes, Dims& batch);

// Whether the handlers must accept the call. What is not valid they must refuse.
bool valid(const Call& call);

// A measure of the work of a valid call, to leave out those that only ask for patience.
double work(const Call& call);
