// Vectors of one width and the few operations that the kernels need, in GCC/Clang vector extensions.
// A unit sets `vector_bytes` and `registers` before it includes this. Everything lies in an anonymous namespace: one
// copy per instruction set.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

// Intrinsics need a vector of their own width: a unit may be compiled for a wider instruction set than it is written
// for (-march=native). The `maskz` forms, with all lanes set, spare a warning: GCC 12 starts the others from an
// uninitialised vector.
template <class V, int bytes>
constexpr bool is_floats = __is_same(V, Vec<float>) && vector_bytes == bytes;
constexpr uint16_t all_lanes = 0xffff;

// NaN in b is kept out, NaN in a too: a row's maximum is that of its numbers; NaN enters through exp.
template <class V>
JAX_FA4_INLINE V maximum(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (is_floats<V, 64>) return (V)_mm512_maskz_max_ps(all_lanes, (__m512)b, (__m512)a);
#endif
#if defined(__AVX2__)
  if constexpr (is_floats<V, 32>) return (V)_mm256_max_ps((__m256)b, (__m256)a);
#endif
#if defined(__SSE2__)
  if constexpr (is_floats<V, 16>) return (V)_mm_max_ps((__m128)b, (__m128)a);
#endif
  return b > a ? b : a;  // one instruction, but GCC does not find it
}

// Likewise, of a and b or, where one of them is NaN, a.
template <class V>
JAX_FA4_INLINE V minimum(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (is_floats<V, 64>) return (V)_mm512_maskz_min_ps(all_lanes, (__m512)b, (__m512)a);
#endif
#if defined(__AVX2__)
  if constexpr (is_floats<V, 32>) return (V)_mm256_min_ps((__m256)b, (__m256)a);
#endif
#if defined(__SSE2__)
  if constexpr (is_floats<V, 16>) return (V)_mm_min_ps((__m128)b, (__m128)a);
#endif
  return b < a ? b : a;
}

// a / b for b far from the least and largest numbers. AVX-512 units divide slowly: one Newton step from 14 bits.
template <class V>
JAX_FA4_INLINE V quotient(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (is_floats<V, 64>) {
    const V inverse = (V)_mm512_maskz_rcp14_ps(all_lanes, (__m512)b);
    const V estimate = a * inverse;
    return estimate + estimate * (1.0f - inverse * b);
  }
#endif
  return a / b;
}

JAX_FA4_INLINE Vec<float> magnitude(Vec<float> x) { return (Vec<float>)((IntVec<float>)x & INT32_MAX); }
JAX_FA4_INLINE Vec<double> magnitude(Vec<double> x) { return (Vec<double>)((IntVec<double>)x & INT64_MAX); }

template <class Real>
JAX_FA4_INLINE bool any(IntVec<Real> mask) {
#if defined(__AVX512F__)
  if constexpr (vector_bytes == 64 && sizeof(Real) == 4)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#endif
#if defined(__AVX2__)
  if constexpr (vector_bytes == 32) return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#endif
#if defined(__SSE2__)
  if constexpr (vector_bytes == 16) return _mm_movemask_epi8((__m128i)mask) != 0;
#endif
  Int<Real> all = 0;
  for (int64_t i = 0; i < lanes<Real>; ++i) all |= mask[i];
  return all != 0;
}

// Doubles one by one: they need not be fast.
JAX_FA4_INLINE Vec<double> exp(Vec<double> x) {
  for (int64_t i = 0; i < lanes<double>; ++i) x[i] = ::exp(x[i]);
  return x;
}

#if defined(__AVX512DQ__)
// vreduceps leaves t - floor(t), of -inf 0, and vscalefps multiplies by 2^floor(t). At 1, to which the fraction of a
// small negative t is rounded, the polynomial is exactly 2. Error 1.8e-7; 0 below -126, for a vector with subnormal
// results would take 250 cycles.
template <bool flushes, class V>
JAX_FA4_INLINE V exp2_avx512(V t) {
  const V f = (V)_mm512_maskz_reduce_ps(all_lanes, (__m512)t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  V p = broadcast(0.00187522988f);
  p = p * f + 0.00900083594f;
  p = p * f + 0.0558105484f;
  p = p * f + 0.240161911f;
  p = p * f + 0.693151474f;
  p = p * f + 1.0f;
  if (flushes) return (V)_mm512_maskz_scalef_ps(all_lanes, (__m512)p, (__m512)t);
  const __mmask16 normal = _mm512_cmp_ps_mask((__m512)t, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return (V)_mm512_maskz_scalef_ps(normal, (__m512)p, (__m512)t);
}
#endif

// 2^t for t < 127, exactly 1 for 0; NaN stays NaN. Of the polynomials with constant term 1 that of the least maximum of
// the relative error together with the rounding of its own last steps, found over all fractions.
// Error 1.6e-7 with FMA, 1.8e-7 without; 0 below -126.5. `flushes`: the processor is set to make subnormal results 0.
template <bool flushes = false>
JAX_FA4_INLINE Vec<float> exp2(Vec<float> t) {
#if defined(__AVX512DQ__)
  if constexpr (vector_bytes == 64) return exp2_avx512<flushes>(t);
#endif
  const float nearest = 12582912.0f + 127.0f;  // 1.5 * 2^23 and the bias: leaves in the low bits an integer as exponent
  t = maximum(t, broadcast(-127.0f));          // whose exponent is that of 0
  const Vec<float> shifted = t + nearest;
  const Vec<float> f = t - (shifted - nearest);
  Vec<float> p = broadcast(0.00132629008f);
  p = p * f + 0.00967161357f;
  p = p * f + 0.0555072315f;
  p = p * f + 0.24022238f;
  p = p * f + 0.693147004f;
  p = p * f + 1.0f;
  return p * (Vec<float>)((Simd<float>::BitsVec)shifted << 23);
}

// x p(x^2) / q(x^2), both of degree 4 and 1 at 0: fewer steps than by an exponential, and small x stays exact. From the
// least maximum of the relative error up to 8.5 (2e-8 before rounding), coefficients then searched as float32 numbers.
// Error 2.3e-7 below 1 and 4.5e-7 above; exactly 1 from 8.5 on, but a few results near 8.3 are an ulp or two above 1.
JAX_FA4_INLINE Vec<float> tanh(Vec<float> x) {
  const Vec<float> bound = broadcast(8.5f);
  x = minimum(maximum(x, -bound), bound);
  const Vec<float> y = x * x;
  Vec<float> p = broadcast(1.48163402e-08f);
  p = p * y + 2.16720346e-05f;
  p = p * y + 0.00356069813f;
  p = p * y + 0.134360358f;
  p = p * (x * y) + x;
  Vec<float> q = broadcast(8.37675657e-07f);
  q = q * y + 0.000339173974f;
  q = q * y + 0.0261252485f;
  q = q * y + 0.467693746f;
  q = q * y + 1.0f;
  return quotient(p, q);
}

JAX_FA4_INLINE Vec<double> tanh(Vec<double> x) {
  for (int64_t i = 0; i < lanes<double>; ++i) x[i] = ::tanh(x[i]);
  return x;
}

}  // namespace
