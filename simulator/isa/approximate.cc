// Approximate functions (PTX ISA: ex2, lg2, rcp, rsqrt, sqrt, sin, cos, tanh, div with .approx or .full).
// The manual bounds their errors but not their bits. These are computed in double and rounded once; hardware may differ
// by 2 ulp (ex2, rcp, sqrt, div), 2^-22 relative or absolute (lg2, rsqrt), 2^-20 absolute (sin, cos), 2^-11 relative
// (tanh).
#include "isa/families.h"
#include "isa/rounding.h"

namespace sim {
namespace {

// 2^x = 2^n p(x - n), n the nearest integer; p is a minimax polynomial with p(0) = 1, off by at most 2^-28.9: integers
// are exact, all else is within 0.54 ulp of float. Beyond +-160 every result is 0 or infinite in float.
float exponential(float a) {
  const float low = a < -160.0f ? -160.0f : a, clamped = low > 160.0f ? 160.0f : low;
  const double x = clamped;
  constexpr double to_integer_bits = 0x1.8p52;  // leaves n in the sum's last bits
  const double shifted = x + to_integer_bits, f = x - (shifted - to_integer_bits);
  double p = 0x1.41fbbc18556bcp-13;
  p = p * f + 0x1.5f3e535ef321fp-10;
  p = p * f + 0x1.3b2d4cf2b2df6p-7;
  p = p * f + 0x1.c6aee88db898dp-5;
  p = p * f + 0x1.ebfbdc3c2dd1ap-3;
  p = p * f + 0x1.62e430af27b4cp-1;
  p = p * f + 1.0;
  return static_cast<float>(std::bit_cast<double>(bits_of(p) + (bits_of(shifted) << 52)));
}

SIM_FOR_EVERY_PROCESSOR
void exponentials(float* d, const float* a) {
#pragma GCC ivdep
  for (int lane = 0; lane < warp_size; ++lane) d[lane] = flush(canonical(exponential(flush(a[lane]))));
}

struct Exponential { static float of(float a) { return exponential(a); } };
struct Logarithm { static float of(float a) { return static_cast<float>(std::log2(double{a})); } };
struct Reciprocal { static float of(float a) { return static_cast<float>(1.0 / double{a}); } };
struct ReciprocalRoot { static float of(float a) { return static_cast<float>(1.0 / std::sqrt(double{a})); } };
struct Root { static float of(float a) { return static_cast<float>(std::sqrt(double{a})); } };
struct Sine { static float of(float a) { return static_cast<float>(std::sin(double{a})); } };
struct Cosine { static float of(float a) { return static_cast<float>(std::cos(double{a})); } };
struct Tangent { static float of(float a) { return static_cast<float>(std::tanh(double{a})); } };

template <class Function> constexpr Execute plain = lane<float>([](float a) { return canonical(Function::of(a)); });
template <class Function>
constexpr Execute flushing = lane<float>([](float a) { return flush(canonical(Function::of(flush(a)))); });

// The hottest of all, as whole vectors.
Step flushing_exponentials(Warp& warp, const Inst& inst) {
  if (warp.active != all_lanes) return flushing<Exponential>(warp, inst);
  exponentials(warp.out<float>(inst.op[0]), warp.in<float>(inst.op[1]));
  return Step::next();
}

// 16-bit forms; .ftz of bf16 concerns float's own range of subnormals.
template <class Function, bool ftz> constexpr auto narrow = []<class T>(T a) {
  const float x = exact(a);
  return nearest<T>(ftz ? flush(Function::of(flush(x))) : Function::of(x));
};
template <class Function, bool ftz> constexpr auto narrow_pair = []<class T>(T a) {
  return T{narrow<Function, ftz>(a.x), narrow<Function, ftz>(a.y)};
};

// a * (1 / b): a divisor above 2^126 has a reciprocal that is flushed.
float quotient(float a, float b) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float size = std::fabs(b), near = static_cast<float>(double{a} / double{b});
  const bool huge = (size > 0x1p126f) & (size < infinity);
  const float flushed = std::fabs(a) < infinity ? std::copysign(0.0f, near) : a - a;
  return canonical((a == a) & huge ? flushed : near);
}
constexpr auto full_quotient = [](float a, float b) { return canonical(static_cast<float>(double{a} / double{b})); };

const Row rows[] = {
    {"ex2.approx.f32 d, a", plain<Exponential>, Unit::mufu},
    {"ex2.approx.ftz.f32 d, a", flushing_exponentials, Unit::mufu},
    {"ex2.approx.f16 d, a", lane<f16>(narrow<Exponential, false>), Unit::mufu},
    {"ex2.approx.f16x2 d, a", lane<f16x2>(narrow_pair<Exponential, false>), Unit::mufu},
    {"ex2.approx.ftz.bf16 d, a", lane<bf16>(narrow<Exponential, true>), Unit::mufu},
    {"ex2.approx.ftz.bf16x2 d, a", lane<bf16x2>(narrow_pair<Exponential, true>), Unit::mufu},
    {"lg2.approx.f32 d, a", plain<Logarithm>, Unit::mufu},
    {"lg2.approx.ftz.f32 d, a", flushing<Logarithm>, Unit::mufu},
    {"rcp.approx.f32 d, a", plain<Reciprocal>, Unit::mufu},
    {"rcp.approx.ftz.f32 d, a", flushing<Reciprocal>, Unit::mufu},
    {"rsqrt.approx.f32 d, a", plain<ReciprocalRoot>, Unit::mufu},
    {"rsqrt.approx.ftz.f32 d, a", flushing<ReciprocalRoot>, Unit::mufu},
    {"sqrt.approx.f32 d, a", plain<Root>, Unit::mufu},
    {"sqrt.approx.ftz.f32 d, a", flushing<Root>, Unit::mufu},
    {"sin.approx.f32 d, a", plain<Sine>, Unit::mufu},
    {"sin.approx.ftz.f32 d, a", flushing<Sine>, Unit::mufu},
    {"cos.approx.f32 d, a", plain<Cosine>, Unit::mufu},
    {"cos.approx.ftz.f32 d, a", flushing<Cosine>, Unit::mufu},
    {"tanh.approx.f32 d, a", plain<Tangent>, Unit::mufu},
    {"tanh.approx.f16 d, a", lane<f16>(narrow<Tangent, false>), Unit::mufu},
    {"tanh.approx.f16x2 d, a", lane<f16x2>(narrow_pair<Tangent, false>), Unit::mufu},
    {"tanh.approx.bf16 d, a", lane<bf16>(narrow<Tangent, false>), Unit::mufu},
    {"tanh.approx.bf16x2 d, a", lane<bf16x2>(narrow_pair<Tangent, false>), Unit::mufu},
    {"div.approx.f32 d, a, b", lane<float, float>([](float a, float b) { return quotient(a, b); }), Unit::mufu},
    {"div.approx.ftz.f32 d, a, b",
     lane<float, float>([](float a, float b) { return flush(quotient(flush(a), flush(b))); }), Unit::mufu},
    {"div.full.f32 d, a, b", lane<float, float>(full_quotient), Unit::mufu},
    {"div.full.ftz.f32 d, a, b",
     lane<float, float>([](float a, float b) { return flush(full_quotient(flush(a), flush(b))); }), Unit::mufu},
};

}  // namespace

std::span<const Row> approximate_rows() { return rows; }

}  // namespace sim
