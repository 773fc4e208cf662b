// All kernels of one instruction set. A unit (avx512.cc, ...) states its vector length and registers, includes this, and
// exports one Kernels; nothing else of it has external linkage.
#pragma once

#include "kernels.h"
#include "simd.h"
#include "elements.h"
#include "matmul.h"
#include "scratch.h"
#include "tiles.h"
#include "logits.h"
#include "forward.h"
#include "score_gradient.h"
#include "backward.h"
#include "bias_gradient.h"

namespace {

template <class Scratch, class... Arguments>
size_t scratch_bytes(const Arguments&... arguments) {
  Carver carver(nullptr);
  Scratch{carver, arguments...};
  return carver.used();
}

// float64 calls are computed in double, all others in float.
size_t forward_scratch(const Problem& p) {
  return p.double_precision() ? scratch_bytes<ForwardScratch<double>>(p) : scratch_bytes<ForwardScratch<float>>(p);
}

size_t backward_scratch(const Problem& p, const Plan& plan) {
  return p.double_precision() ? scratch_bytes<BackwardScratch<double>>(p, plan)
                              : scratch_bytes<BackwardScratch<float>>(p, plan);
}

size_t bias_scratch(const Problem& p) {
  return p.double_precision() ? scratch_bytes<BiasScratch<double>>(p) : scratch_bytes<BiasScratch<float>>(p);
}

size_t part_bytes(const Problem& p) {
  return p.double_precision() ? size_t(Part<double>::size(p)) * sizeof(double)
                              : size_t(Part<float>::size(p)) * sizeof(float);
}

size_t partial_bytes(const Problem& p) {
  return p.double_precision() ? size_t(KeySums<double>::size(p)) * sizeof(double)
                              : size_t(KeySums<float>::size(p)) * sizeof(float);
}

void forward(const Problem& p, const Plan& plan, int64_t task, void* scratch) {
  p.double_precision() ? forward_task<double>(p, plan, task, scratch) : forward_task<float>(p, plan, task, scratch);
}

void merge(const Problem& p, const Plan& plan, int64_t task, void* scratch) {
  p.double_precision() ? merge_task<double>(p, plan, task, scratch) : merge_task<float>(p, plan, task, scratch);
}

void backward(const Problem& p, const Plan& plan, int64_t task, void* scratch) {
  p.double_precision() ? backward_task<double>(p, plan, task, scratch) : backward_task<float>(p, plan, task, scratch);
}

void reduce(const Problem& p, const Plan& plan, int64_t task) {
  p.double_precision() ? reduce_task<double>(p, plan, task) : reduce_task<float>(p, plan, task);
}

void bias_gradient(const Problem& p, const Plan& plan, int64_t task, void* scratch) {
  p.double_precision() ? bias_task<double>(p, plan, task, scratch) : bias_task<float>(p, plan, task, scratch);
}

void store_number(const Operand& to, int64_t index, double number) {
  store_row(to.data, to.element, index, &number, 1);
}

constexpr jax_fa4::cpu::Kernels unit(const char* name, bool (*supported)()) {
  return {name,  supported, forward_scratch, backward_scratch, bias_scratch,  part_bytes,  partial_bytes,
          forward, merge,    backward,        reduce,           bias_gradient, store_number};
}

}  // namespace
