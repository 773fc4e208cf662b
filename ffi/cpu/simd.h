// Vectors of one width and the few operations that the kernels need, in GCC/Clang vector extensions.
// A unit sets `vector_bytes` and `registers` before it includes this. Everything lies in an anonymous namespace: one
// copy per instruction set.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

namespace {

template <class Real>
struct Simd;

template <>
struct Simd<float> {
  typedef float Vec __attribute__((vector_size(vector_bytes)));
  typedef int32_t IntVec __attribute__((vector_size(vector_bytes)));
  typedef uint32_t BitsVec __attribute__((vector_size(vector_bytes)));
  typedef int32_t Int;
};

template <>
struct Simd<double> {
  typedef double Vec __attribute__((vector_size(vector_bytes)));
  typedef int64_t IntVec __attribute__((vector_size(vector_bytes)));
  typedef uint64_t BitsVec __attribute__((vector_size(vector_bytes)));
  typedef int64_t Int;
};

template <class Real>
using Vec = typename Simd<Real>::Vec;
template <class Real>
using IntVec = typename Simd<Real>::IntVec;
template <class Real>
using Int = typename Simd<Real>::Int;

template <class Real>
constexpr int64_t lanes = vector_bytes / int64_t{sizeof(Real)};

template <class Real>
constexpr int64_t padded_to_lanes(int64_t n) {
  return (n + lanes<Real> - 1) / lanes<Real> * lanes<Real>;
}

template <class Real>
JAX_FA4_INLINE Vec<Real> broadcast(Real x) {
  return x - Vec<Real>{};
}

template <class Real>
JAX_FA4_INLINE Vec<Real> load(const Real* p) {
  Vec<Real> v;
  memcpy(&v, p, sizeof v);
  return v;
}

template <class Real>
JAX_FA4_INLINE IntVec<Real> load_int(const Int<Real>* p) {
  IntVec<Real> v;
  memcpy(&v, p, sizeof v);
  return v;
}

template <class Real>
JAX_FA4_INLINE void store(Real* p, Vec<Real> v) {
  memcpy(p, &v, sizeof v);
}

// NaN in b is kept out, NaN in a too: a row's maximum is that of its numbers; NaN enters through exp.
template <class V>
JAX_FA4_INLINE V maximum(V a, V b) {
  return b > a ? b : a;
}

template <class V>
JAX_FA4_INLINE V magnitude(V x) {
  return x < V{} ? -x : x;
}

template <class Real>
JAX_FA4_INLINE bool any(IntVec<Real> mask) {
  Int<Real> all = 0;
  for (int64_t i = 0; i < lanes<Real>; ++i) all |= mask[i];
  return all != 0;
}

// e^x for x < 88, 0 below -87.4; NaN stays NaN. x = n ln 2 + f with the nearest integer n; a polynomial for e^f (least
// maximum of the relative error, 3e-9 before rounding); then n goes into the exponent. Natural units, because a logit
// less the row's maximum or log-sum-exp is often exact, and log2(e) times either is not.
JAX_FA4_INLINE Vec<float> exp(Vec<float> x) {
  typedef Simd<float>::BitsVec Bits;
  const Vec<float> smallest = broadcast(-88.0f);
  const float nearest = 12582912.0f;                                     // 1.5 * 2^23: adding it leaves n in the low bits
  const float log2_of_e = 1.44269504f;
  const float log_of_2_high = 0.69314575f, log_of_2_low = 1.4286068e-6f;  // n times the first is exact
  x = x < smallest ? smallest : x;
  const Vec<float> shifted = x * log2_of_e + nearest;
  const Vec<float> n = shifted - nearest;
  const Vec<float> f = (x - n * log_of_2_high) - n * log_of_2_low;
  Vec<float> p = broadcast(0.0013814599f);
  p = p * f + 0.008368717f;
  p = p * f + 0.04166839f;
  p = p * f + 0.16666521f;
  p = p * f + 0.49999994f;
  p = p * f + 1.0f;
  p = p * f + 1.0f;
  const Bits exponent = ((Bits)shifted << 23) + (127u << 23);
  return p * (Vec<float>)exponent;
}

JAX_FA4_INLINE Vec<double> exp(Vec<double> x) {
  for (int64_t i = 0; i < lanes<double>; ++i) x[i] = ::exp(x[i]);
  return x;
}

// Below 0.55 an odd polynomial (least maximum of the relative error, 1e-9 before rounding): 1 - 2 / (e^2x + 1) would
// cancel there.
JAX_FA4_INLINE Vec<float> tanh(Vec<float> x) {
  const Vec<float> size = magnitude(x);
  const Vec<float> bounded = size > 10.0f ? broadcast(10.0f) : size;  // tanh(10) rounds to 1
  const Vec<float> large = 1.0f - 2.0f / (exp(bounded * 2.0f) + 1.0f);
  const Vec<float> y = x * x;
  Vec<float> p = broadcast(-0.006274238f);
  p = p * y + 0.021071678f;
  p = p * y - 0.05385231f;
  p = p * y + 0.13332586f;
  p = p * y - 0.33333316f;
  const Vec<float> small = x + x * y * p;
  return size < 0.55f ? small : (x < 0.0f ? -large : large);
}

JAX_FA4_INLINE Vec<double> tanh(Vec<double> x) {
  for (int64_t i = 0; i < lanes<double>; ++i) x[i] = ::tanh(x[i]);
  return x;
}

}  // namespace
