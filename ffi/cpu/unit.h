// All kernels of one instruction set. A unit (avx512.cc, ...) states its vector length and registers, includes this, and
// exports one Kernels; nothing else of it has external linkage.
#pragma once

#include "kernels.h"
#include "numbers.h"
#include "simd.h"
#include "transpose.h"
#include "elements.h"
#include "scratch.h"
#include "matmul.h"
#include "tiles.h"
#include "packed.h"
#include "logits.h"
#include "softmax.h"
#include "forward.h"
#include "narrow_products.h"
#include "narrow.h"
#include "score_gradient.h"
#include "backward.h"
#include "bias_gradient.h"

namespace {

using jax_fa4::cpu::TileShape;

template <class Scratch, class... Arguments>
size_t scratch_bytes(const Arguments&... arguments) {
  Carver carver(nullptr);
  Scratch{carver, arguments...};
  return carver.used();
}

// float64 calls are computed in double, all others in float; bfloat16 ones by the unit's engines for them.
template <class ForBFloat16, class Apply>
JAX_FA4_INLINE auto with_engines(const Problem& p, Apply apply) {
  if (p.double_precision()) return apply(FmaEngines<double>{});
  if (p.query.element == Element::bf16) return apply(ForBFloat16{});
  return apply(FmaEngines<float>{});
}

template <class B, class Apply>
JAX_FA4_INLINE auto with_engine(const Problem& p, Pass pass, Apply apply) {
  return with_engines<B>(p, [&](auto engines) {
    using Engines = decltype(engines);
    return pass == Pass::forward ? apply(typename Engines::Forward{}) : apply(typename Engines::Backward{});
  });
}

// Narrow calls have shapes of their own and read keys and values in their type.
template <class Apply>
JAX_FA4_INLINE auto with_narrow(const Problem& p, Apply apply) {
  if (p.double_precision()) return apply(Narrow<double, double>{});
  if (p.query.element == Element::bf16) return apply(Narrow<float, BFloat16>{});
  if (p.query.element == Element::f16) return apply(Narrow<float, Float16>{});
  return apply(Narrow<float, float>{});
}

// The gradient of bias needs that of the logits in full: it is computed without the engine for bfloat16.
template <class Apply>
JAX_FA4_INLINE auto with_precision(const Problem& p, Apply apply) {
  return with_engine<FmaEngines<float>>(p, Pass::backward, apply);
}

template <class B>
struct Unit {
  static TileShape tiles(const Problem& p, Pass pass) {
    return with_engine<B>(p, pass, [&](auto e) { return TileShape{decltype(e)::tile_rows, decltype(e)::tile_keys}; });
  }
  static TileShape bias_tiles(const Problem& p) {
    return with_precision(p, [&](auto e) { return TileShape{decltype(e)::tile_rows, decltype(e)::tile_keys}; });
  }
  static size_t packed_bytes(const Problem& p, Pass pass) {
    return with_engine<B>(p, pass, [&](auto e) {
      return size_t(PackedTile<decltype(e)>::size(p, pass)) * sizeof(typename decltype(e)::Item);
    });
  }
  static size_t pack_scratch(const Problem& p, Pass pass) {
    return with_engine<B>(p, pass, [&](auto e) { return scratch_bytes<PackScratch<decltype(e)>>(p); });
  }
  static size_t forward_scratch(const Problem& p, const Plan& plan) {
    if (plan.heads_of_a_task)
      return with_narrow(p, [&](auto e) { return scratch_bytes<NarrowScratch<decltype(e)>>(p, plan); });
    return with_engine<B>(p, Pass::forward,
                          [&](auto e) { return scratch_bytes<ForwardScratch<decltype(e)>>(p, plan); });
  }
  static size_t backward_scratch(const Problem& p, const Plan& plan) {
    return with_engine<B>(p, Pass::backward,
                          [&](auto e) { return scratch_bytes<BackwardScratch<decltype(e)>>(p, plan); });
  }
  static size_t bias_scratch(const Problem& p) {
    return with_precision(p, [&](auto e) { return scratch_bytes<BiasScratch<decltype(e)>>(p); });
  }
  static size_t part_bytes(const Problem& p, const Plan& plan) {
    if (plan.heads_of_a_task)
      return with_narrow(p, [&](auto e) {
        return size_t(plan.heads_of_a_task * NarrowState<decltype(e)>::size(p)) * sizeof(typename decltype(e)::Real);
      });
    return with_engine<B>(p, Pass::forward, [&](auto e) {
      return size_t(Part<decltype(e)>::size(p)) * sizeof(typename decltype(e)::Real);
    });
  }
  static size_t partial_bytes(const Problem& p) {
    return with_engine<B>(p, Pass::backward, [&](auto e) {
      return size_t(KeySums<decltype(e)>::size(p)) * sizeof(typename decltype(e)::Real);
    });
  }
  static void pack(const Problem& p, const Plan& plan, Pass pass, int64_t task, void* scratch) {
    with_engine<B>(p, pass, [&](auto e) { pack_task<decltype(e)>(p, plan, pass, task, scratch); });
  }
  static void forward(const Problem& p, const Plan& plan, int64_t task, void* scratch) {
    if (plan.heads_of_a_task)
      return with_narrow(p, [&](auto e) { narrow_task<decltype(e)>(p, plan, task, scratch); });
    with_engine<B>(p, Pass::forward, [&](auto e) { forward_task<decltype(e)>(p, plan, task, scratch); });
  }
  static void merge(const Problem& p, const Plan& plan, int64_t task, void* scratch) {
    if (plan.heads_of_a_task)
      return with_narrow(p, [&](auto e) { merge_narrow_task<decltype(e)>(p, plan, task, scratch); });
    with_engine<B>(p, Pass::forward, [&](auto e) { merge_task<decltype(e)>(p, plan, task, scratch); });
  }
  static void backward(const Problem& p, const Plan& plan, int64_t task, void* scratch) {
    with_engine<B>(p, Pass::backward, [&](auto e) { backward_task<decltype(e)>(p, plan, task, scratch); });
  }
  static void reduce(const Problem& p, const Plan& plan, int64_t task) {
    with_engine<B>(p, Pass::backward, [&](auto e) { reduce_task<decltype(e)>(p, plan, task); });
  }
  static void bias_gradient(const Problem& p, const Plan& plan, int64_t task, void* scratch) {
    with_precision(p, [&](auto e) { bias_task<decltype(e)>(p, plan, task, scratch); });
  }
  static void store_number(const Operand& to, int64_t index, double number) {
    store_row(to.data, to.element, index, &number, 1);
  }
};

template <class ForBFloat16>
constexpr jax_fa4::cpu::Kernels unit(const char* name, bool (*supported)(), bool (*preferred)() = nullptr) {
  using U = Unit<ForBFloat16>;
  return {
      .name = name,
      .supported = supported,
      .preferred = preferred,
      .tiles = U::tiles,
      .bias_tiles = U::bias_tiles,
      .packed_bytes = U::packed_bytes,
      .pack_scratch = U::pack_scratch,
      .forward_scratch = U::forward_scratch,
      .backward_scratch = U::backward_scratch,
      .bias_scratch = U::bias_scratch,
      .part_bytes = U::part_bytes,
      .partial_bytes = U::partial_bytes,
      .pack = U::pack,
      .forward = U::forward,
      .merge = U::merge,
      .backward = U::backward,
      .reduce = U::reduce,
      .bias_gradient = U::bias_gradient,
      .store_number = U::store_number,
  };
}

}  // namespace
