// Rows of any element type to and from the type that is computed in (float, or double for float64 calls).
// Plain integer arithmetic without branches, so that the compiler can vectorise it for every instruction set.
#pragma once

namespace {

using jax_fa4::Element;

JAX_FA4_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

JAX_FA4_INLINE float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

struct BFloat16 {
  uint16_t bits;

  JAX_FA4_INLINE operator float() const { return float_of(uint32_t{bits} << 16); }

  static JAX_FA4_INLINE BFloat16 from(float x) {  // to nearest, ties to even
    const uint32_t b = bits_of(x);
    const uint32_t rounded = (b + 0x7fff + (b >> 16 & 1)) >> 16;
    const uint32_t quiet_nan = b >> 16 | 0x40;
    return {uint16_t((b & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded)};
  }
};

struct Float16 {
  uint16_t bits;

  JAX_FA4_INLINE operator float() const {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16;
    const uint32_t magnitude = bits & 0x7fff;
    const uint32_t normal = (magnitude << 13) + (112u << 23);
    const uint32_t infinite = (magnitude << 13) | (magnitude > 0x7c00 ? 0x7fc00000 : 0x7f800000);  // NaN becomes quiet
    const uint32_t subnormal = bits_of(float(int32_t(magnitude)) * 0x1p-24f);
    return float_of(sign | (magnitude < 0x400 ? subnormal : magnitude < 0x7c00 ? normal : infinite));
  }

  static JAX_FA4_INLINE Float16 from(float x) {  // to nearest, ties to even
    const uint32_t b = bits_of(x);
    const uint32_t sign = b >> 16 & 0x8000;
    const uint32_t magnitude = b & 0x7fffffff;
    const uint32_t normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    // Adding 2^23 leaves the multiple of 2^-24 nearest to x in the low bits.
    const uint32_t subnormal = bits_of(float_of(magnitude < 0x38800000 ? magnitude : 0) * 0x1p24f + 0x1p23f) & 0x7fff;
    const uint32_t special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    const uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;
    return {uint16_t(sign | (magnitude >= 0x477ff000 ? special : finite))};  // 65520 and more is infinite
  }
};

// The same for vectors of float16, bit for bit; compilers do not vectorise the above.
typedef uint16_t HalfVec __attribute__((vector_size(vector_bytes / 2)));
typedef Simd<float>::BitsVec BitsVec;

template <class V, class Half>
JAX_FA4_INLINE V float_of_float16(Half x) {
#if defined(__AVX512F__)
  if constexpr (is_floats<V, 64>) return (V)_mm512_maskz_cvtph_ps(all_lanes, (__m256i)x);
#endif
#if defined(__F16C__)
  if constexpr (is_floats<V, 32>) return (V)_mm256_cvtph_ps((__m128i)x);
#endif
  const BitsVec bits = __builtin_convertvector(x, BitsVec);
  const IntVec<float> magnitude = (IntVec<float>)(bits & 0x7fff);
  const BitsVec shifted = (BitsVec)magnitude << 13;
  const BitsVec subnormal = (BitsVec)(__builtin_convertvector(magnitude, V) * 0x1p-24f);
  const BitsVec special = shifted | (magnitude > 0x7c00 ? BitsVec{} + 0x7fc00000 : BitsVec{} + 0x7f800000);
  const BitsVec finite = magnitude < 0x400 ? subnormal : shifted + (112u << 23);
  return (V)((bits & 0x8000) << 16 | (magnitude < 0x7c00 ? finite : special));
}

template <class V>
JAX_FA4_INLINE HalfVec float16_of(V x) {
  const BitsVec bits = (BitsVec)x;
  [[maybe_unused]] const V one_nan = x == x ? x : (V)((bits & 0x80000000) | 0x7fc00000);  // not x's payload
#if defined(__AVX512F__)
  if constexpr (is_floats<V, 64>)
    return (HalfVec)_mm512_maskz_cvtps_ph(all_lanes, (__m512)one_nan, _MM_FROUND_TO_NEAREST_INT);
#endif
#if defined(__F16C__)
  if constexpr (is_floats<V, 32>) return (HalfVec)_mm256_cvtps_ph((__m256)one_nan, _MM_FROUND_TO_NEAREST_INT);
#endif
  const IntVec<float> magnitude = (IntVec<float>)(bits & 0x7fffffff);
  const BitsVec m = (BitsVec)magnitude;
  const BitsVec normal = (m - (112u << 23) + 0xfff + (m >> 13 & 1)) >> 13;
  const V small = (V)(magnitude < 0x38800000 ? magnitude : IntVec<float>{});
  const BitsVec subnormal = (BitsVec)(small * 0x1p24f + 0x1p23f) & 0x7fff;
  const BitsVec special = magnitude > 0x7f800000 ? BitsVec{} + 0x7e00 : BitsVec{} + 0x7c00;
  const BitsVec finite = magnitude < 0x38800000 ? subnormal : normal;
  return __builtin_convertvector((bits >> 16 & 0x8000) | (magnitude >= 0x477ff000 ? special : finite), HalfVec);
}

// Calls apply(i) for vectors that start at i and together cover 0 to n; the last may overlap the one before.
template <class Apply>
JAX_FA4_INLINE void by_vectors(int64_t n, Apply apply) {
  constexpr int64_t width = lanes<float>;
  for (int64_t i = 0; i < n - width; i += width) apply(i);
  apply(n - width);
}

template <class Real, class T>
void load_as(Real* row, const T* from, int64_t n) {
  if constexpr (__is_same(Real, float) && __is_same(T, Float16)) {
    if (n >= lanes<float>)
      return by_vectors(n, [&](int64_t i) {
        HalfVec v;
        memcpy(&v, from + i, sizeof v);
        store(row + i, float_of_float16<Vec<float>>(v));
      });
  }
  for (int64_t i = 0; i < n; ++i) row[i] = Real(from[i]);
}

template <class T, class Real>
void store_as(T* to, const Real* row, int64_t n) {
  if constexpr (__is_same(Real, float) && __is_same(T, Float16)) {
    if (n >= lanes<float>)
      return by_vectors(n, [&](int64_t i) {
        const HalfVec v = float16_of(load(row + i));
        memcpy(to + i, &v, sizeof v);
      });
  }
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (sizeof(T) == 2)
      to[i] = T::from(float(row[i]));
    else
      to[i] = T(row[i]);
  }
}

// Reads n neighbouring elements that start at `index`.
template <class Real>
void load_row(Real* row, const void* data, Element element, int64_t index, int64_t n) {
  switch (element) {
    case Element::f32: return load_as(row, static_cast<const float*>(data) + index, n);
    case Element::bf16: return load_as(row, static_cast<const BFloat16*>(data) + index, n);
    case Element::f16: return load_as(row, static_cast<const Float16*>(data) + index, n);
    case Element::f64: return load_as(row, static_cast<const double*>(data) + index, n);
    case Element::i32: return load_as(row, static_cast<const int32_t*>(data) + index, n);
    case Element::boolean: return load_as(row, static_cast<const uint8_t*>(data) + index, n);
  }
}

template <class Real>
void store_row(void* data, Element element, int64_t index, const Real* row, int64_t n) {
  switch (element) {
    case Element::f32: return store_as(static_cast<float*>(data) + index, row, n);
    case Element::bf16: return store_as(static_cast<BFloat16*>(data) + index, row, n);
    case Element::f16: return store_as(static_cast<Float16*>(data) + index, row, n);
    case Element::f64: return store_as(static_cast<double*>(data) + index, row, n);
    default: return;  // spec.cc lets only floating-point results pass
  }
}

template <class Real>
Real load_one(const jax_fa4::Operand& operand, int64_t index) {
  Real x = 0;
  load_row(&x, operand.data, operand.element, index, 1);
  return x;
}

JAX_FA4_INLINE int64_t load_index(const jax_fa4::Operand& operand, int64_t index) {
  return static_cast<const int32_t*>(operand.data)[index];
}

}  // namespace
