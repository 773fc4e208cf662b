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

constexpr double log2_of_e = 1.4426950408889634;
constexpr double log_of_2 = 0.6931471805599453;

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

// NaN in b is kept out, NaN in a too: a row's maximum is that of its numbers; NaN enters through exp2.
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

// 2^x for x < 128, 0 below 2^-126; NaN stays NaN. Round to the nearest integer n, a polynomial for 2^(x-n) on
// [-1/2, 1/2] (least maximum of the relative error, 2e-9 before rounding), then n goes into the exponent.
JAX_FA4_INLINE Vec<float> exp2(Vec<float> x) {
  typedef Simd<float>::BitsVec Bits;
  const Vec<float> smallest = broadcast(-127.0f);
  const float nearest = 12582912.0f;  // 1.5 * 2^23: adding it leaves n in the low bits
  x = x < smallest ? smallest : x;
  const Vec<float> shifted = x + nearest;
  const Vec<float> f = x - (shifted - nearest);
  Vec<float> p = broadcast(0.00015353362f);
  p = p * f + 0.0013398875f;
  p = p * f + 0.009618437f;
  p = p * f + 0.055503324f;
  p = p * f + 0.24022648f;
  p = p * f + 0.6931472f;
  p = p * f + 1.0f;
  const Bits exponent = ((Bits)shifted << 23) + (127u << 23);
  return p * (Vec<float>)exponent;
}

JAX_FA4_INLINE Vec<double> exp2(Vec<double> x) {
  for (int64_t i = 0; i < lanes<double>; ++i) x[i] = ::exp2(x[i]);
  return x;
}

// Below 0.55 an odd polynomial (least maximum of the relative error, 1e-9 before rounding): 1 - 2 / (e^2x + 1) would
// cancel there.
JAX_FA4_INLINE Vec<float> tanh(Vec<float> x) {
  const Vec<float> size = magnitude(x);
  const Vec<float> bounded = size > 10.0f ? broadcast(10.0f) : size;  // tanh(10) rounds to 1
  const Vec<float> large = 1.0f - 2.0f / (exp2(bounded * float(2 * log2_of_e)) + 1.0f);
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
