// Floating-point arithmetic (PTX ISA, "Floating Point Instructions", "Half Precision ...", "Mixed Precision ...").
// Roundings are exact; a NaN result is the canonical NaN in float and narrower; approximate.cc has the .approx forms.
#include "isa/families.h"
#include "isa/rounding.h"

namespace sim {
namespace {

// Each operation to nearest, in the other directions, and as a double rounded to odd for 16-bit results.
struct Add {
  static float near(float a, float b) { return a + b; }
  static double near(double a, double b) { return a + b; }
  template <Rounding rounding> static float directed(float a, float b) { return directed_sum<rounding>(a, b); }
  static double odd(double a, double b) { return sum_to_odd(a, b); }
};
struct Subtract {
  static float near(float a, float b) { return a - b; }
  static double near(double a, double b) { return a - b; }
  template <Rounding rounding> static float directed(float a, float b) { return directed_sum<rounding>(a, -b); }
  static double odd(double a, double b) { return sum_to_odd(a, -b); }
};
// The product of two floats is exact in double.
struct Multiply {
  static float near(float a, float b) { return a * b; }
  static double near(double a, double b) { return a * b; }
  template <Rounding rounding> static float directed(float a, float b) { return round<rounding, float>(double{a} * b); }
  static double odd(double a, double b) { return a * b; }
};
struct Fuse {
  static float near(float a, float b, float c) { return std::fma(a, b, c); }
  static double near(double a, double b, double c) { return std::fma(a, b, c); }
  template <Rounding rounding> static float directed(float a, float b, float c) {
    return round<rounding, float>(sum_to_odd<rounding>(double{a} * b, c));
  }
  static double odd(double a, double b, double c) { return sum_to_odd(a * b, c); }
};

// One lane of .f32, or of mixed precision, whose narrow operands widen exactly.
template <class Operation, Rounding rounding, bool ftz, bool sat> struct Single {
  static float read(auto x) { return ftz ? flush(exact(x)) : exact(x); }
  float operator()(auto... x) const {
    float result;
    if constexpr (rounding == Rounding::nearest) result = Operation::near(read(x)...);
    else result = Operation::template directed<rounding>(read(x)...);
    result = canonical(result);
    if constexpr (ftz) result = flush(result);
    return sat ? saturate(result) : result;
  }
};
// The same on both halves of a register.
template <class Lane> struct Pair {
  f32x2 operator()(std::same_as<f32x2> auto... x) const { return {Lane{}(x.x...), Lane{}(x.y...)}; }
  bf16x2 operator()(std::same_as<bf16x2> auto... x) const { return {Lane{}(x.x...), Lane{}(x.y...)}; }
  f16x2 operator()(std::same_as<f16x2> auto... x) const { return {Lane{}(x.x...), Lane{}(x.y...)}; }
};
// One lane of .f16 or .bf16.
template <class Operation, class T, bool ftz, bool sat, bool relu> struct Half {
  T operator()(std::same_as<T> auto... x) const {
    if constexpr (ftz) return finish(flush(round_odd<Rounding::nearest, T>(Operation::odd(exact(flush(x))...))));
    else return finish(round_odd<Rounding::nearest, T>(Operation::odd(exact(x)...)));
  }
  static T finish(T result) {
    if constexpr (sat) return nearest<T>(saturate(exact(result)));
    if constexpr (relu) return nearest<T>(exact(result) < 0 ? 0.0f : exact(result));
    return result;
  }
};

template <class F, class T, bool ternary> constexpr Execute with_operands = ternary ? nullptr : lane<T, T>(F{});
template <class F, class T> constexpr Execute with_operands<F, T, true> = lane<T, T, T>(F{});

template <class Operation> constexpr bool ternary = std::is_same_v<Operation, Fuse>;

// fma to nearest is the hottest of all: where the processor fuses, whole vectors do.
SIM_FOR_EVERY_PROCESSOR
void fuse(float* d, const float* a, const float* b, const float* c, int count) {
#pragma GCC ivdep
  for (int i = 0; i < count; ++i) d[i] = canonical(std::fma(a[i], b[i], c[i]));
}
template <class Lane, class T> Step fuse_lanes(Warp& warp, const Inst& inst) {
  constexpr int count = warp_size * sizeof(T) / sizeof(float);
  if (warp.active != all_lanes) return detail::execute<Lane, T, T, T>(warp, inst);
  const float *a = warp.in<float>(inst.op[1]), *b = warp.in<float>(inst.op[2]), *c = warp.in<float>(inst.op[3]);
  fuse(warp.out<float>(inst.op[0]), a, b, c, count);
  return Step::next();
}

template <class Operation, template <class> class Shape, class T> Execute bind_single(Binding& binding) {
  const Spelling& spelling = binding.spelling;
  if constexpr (ternary<Operation>)
    if (spelling.has("rn") && !spelling.has("ftz") && !spelling.has("sat"))
      return &fuse_lanes<Shape<Single<Operation, Rounding::nearest, false, false>>, T>;
  return with_rounding(spelling, [&](auto rounding) {
    return with_flag(spelling.has("ftz"), [&](auto ftz) {
      return with_flag(spelling.has("sat"), [&](auto sat) -> Execute {
        using Lane = Shape<Single<Operation, rounding(), ftz(), sat()>>;
        return with_operands<Lane, T, ternary<Operation>>;
      });
    });
  });
}
template <class Lane> using Alone = Lane;
template <class Operation> constexpr Bind single = &bind_single<Operation, Alone, float>;
template <class Operation> constexpr Bind single_pair = &bind_single<Operation, Pair, f32x2>;

// "add.f32.bf16 d, a, c": only the operands before the last are narrow.
template <class Operation, class T> Execute bind_mixed(Binding& binding) {
  const Spelling& spelling = binding.spelling;
  return with_rounding(spelling, [&](auto rounding) {
    return with_flag(spelling.has("sat"), [&](auto sat) -> Execute {
      using Lane = Single<Operation, rounding(), false, sat()>;
      if constexpr (ternary<Operation>) return lane<T, T, float>(Lane{});
      else return lane<T, float>(Lane{});
    });
  });
}
template <class Operation, class T> constexpr Bind mixed = &bind_mixed<Operation, T>;

template <class Operation> constexpr auto near_double = [](auto... x) { return Operation::near(x...); };

template <class Operation, template <class> class Shape, class T, class Packed> Execute bind_half(Binding& binding) {
  const Spelling& spelling = binding.spelling;
  constexpr bool has_flags = std::is_same_v<T, f16>;
  return with_flag(spelling.has("relu"), [&](auto relu) {
    if constexpr (has_flags)
      return with_flag(spelling.has("ftz"), [&](auto ftz) {
        return with_flag(spelling.has("sat"), [&](auto sat) -> Execute {
          return with_operands<Shape<Half<Operation, T, ftz(), sat(), relu()>>, Packed, ternary<Operation>>;
        });
      });
    else return Execute{with_operands<Shape<Half<Operation, T, false, false, relu()>>, Packed, ternary<Operation>>};
  });
}
template <class Operation, class T> constexpr Bind half = &bind_half<Operation, Alone, T, T>;
template <class Operation, class T, class Packed> constexpr Bind half_pair = &bind_half<Operation, Pair, T, Packed>;

// min and max: -0 is less than +0; of a number and a NaN the number, unless .NaN is written.
template <bool greater, bool nan, class T> T extreme(T a, T b) {
  using Bits = decltype(bits_of(a));
  const bool a_wins = greater ? a > b : a < b, equal = a == b, b_is_nan = b != b, a_is_nan = a != a;
  const Bits zeros = greater ? bits_of(a) & bits_of(b) : bits_of(a) | bits_of(b);
  Bits result = a_wins ? bits_of(a) : bits_of(b);
  result = equal ? zeros : result;
  result = b_is_nan ? bits_of(a) : result;
  if constexpr (nan) result = a_is_nan ? bits_of(a) : b_is_nan ? bits_of(b) : result;
  return canonical(std::bit_cast<T>(result));
}
template <bool greater, bool ftz, bool nan> struct Extreme {
  template <class T> static auto read(T x) {
    if constexpr (ftz) return exact(flush(x));
    else return exact(x);
  }
  template <class T> T operator()(T a, T b) const {
    const auto result = extreme<greater, nan>(read(a), read(b));
    if constexpr (std::is_floating_point_v<T>) return result;
    else return nearest<T>(result);
  }
  float operator()(float a, float b, float c) const { return (*this)((*this)(a, b), c); }
};

// bf16 and f64 know no .ftz.
template <class T>
constexpr bool flushes = std::is_same_v<T, float> || std::is_same_v<T, f16> || std::is_same_v<T, f16x2>;

template <bool greater, template <class> class Shape, class... T> Execute bind_extreme(Binding& binding) {
  const Spelling& spelling = binding.spelling;
  return with_flag(spelling.has("NaN"), [&](auto nan) {
    if constexpr ((flushes<T> && ...))
      return with_flag(spelling.has("ftz"), [&](auto ftz) -> Execute {
        return lane<T...>(Shape<Extreme<greater, ftz(), nan()>>{});
      });
    else return Execute{lane<T...>(Shape<Extreme<greater, false, nan()>>{})};
  });
}
template <bool greater> Execute bind_extreme_of_floats(Binding& binding) {
  return binding.group[3] ? bind_extreme<greater, Alone, float, float, float>(binding)
                          : bind_extreme<greater, Alone, float, float>(binding);
}
template <bool greater> constexpr Bind extreme_of_floats = &bind_extreme_of_floats<greater>;
template <bool greater, class T> constexpr Bind extreme_of = &bind_extreme<greater, Alone, T, T>;
template <bool greater, class T> constexpr Bind extreme_of_pairs = &bind_extreme<greater, Pair, T, T>;

// Signs are bits: NaN and -0 like any other value.
constexpr auto flip_sign = []<class T>(T a) { return static_cast<T>(a ^ (T{1} << (8 * sizeof(T) - 1))); };
constexpr auto clear_sign = []<class T>(T a) { return static_cast<T>(a & ~(T{1} << (8 * sizeof(T) - 1))); };
constexpr u32 both_signs = 0x80008000;

constexpr auto quotient = [](float a, float b) { return canonical(a / b); };
constexpr auto reciprocal = [](float a) { return canonical(1.0f / a); };
constexpr auto root = [](float a) { return canonical(std::sqrt(a)); };

const Row rows[] = {
    {"add[.{rn,rz,rm,rp}][.ftz][.sat].f32 d, a, b", single<Add>, Unit::fma},
    {"sub[.{rn,rz,rm,rp}][.ftz][.sat].f32 d, a, b", single<Subtract>, Unit::fma},
    {"mul[.{rn,rz,rm,rp}][.ftz][.sat].f32 d, a, b", single<Multiply>, Unit::fma},
    {"{fma,mad}.{rn,rz,rm,rp}[.ftz][.sat].f32 d, a, b, c", single<Fuse>, Unit::fma},
    {"add[.{rn,rz,rm,rp}][.ftz].f32x2 d, a, b", single_pair<Add>, Unit::fma},
    {"sub[.{rn,rz,rm,rp}][.ftz].f32x2 d, a, b", single_pair<Subtract>, Unit::fma},
    {"mul[.{rn,rz,rm,rp}][.ftz].f32x2 d, a, b", single_pair<Multiply>, Unit::fma},
    {"fma.{rn,rz,rm,rp}[.ftz].f32x2 d, a, b, c", single_pair<Fuse>, Unit::fma},
    {"add[.{rn,rz,rm,rp}][.sat].f32.f16 d:before, a, c:before", mixed<Add, f16>, Unit::fma},
    {"add[.{rn,rz,rm,rp}][.sat].f32.bf16 d:before, a, c:before", mixed<Add, bf16>, Unit::fma},
    {"sub[.{rn,rz,rm,rp}][.sat].f32.f16 d:before, a, c:before", mixed<Subtract, f16>, Unit::fma},
    {"sub[.{rn,rz,rm,rp}][.sat].f32.bf16 d:before, a, c:before", mixed<Subtract, bf16>, Unit::fma},
    {"fma.{rn,rz,rm,rp}[.sat].f32.f16 d:before, a, b, c:before", mixed<Fuse, f16>, Unit::fma},
    {"fma.{rn,rz,rm,rp}[.sat].f32.bf16 d:before, a, b, c:before", mixed<Fuse, bf16>, Unit::fma},
    {"add[.rn].f64 d, a, b", lane<double, double>(near_double<Add>), Unit::fma},
    {"sub[.rn].f64 d, a, b", lane<double, double>(near_double<Subtract>), Unit::fma},
    {"mul[.rn].f64 d, a, b", lane<double, double>(near_double<Multiply>), Unit::fma},
    {"{fma,mad}.rn.f64 d, a, b, c", lane<double, double, double>(near_double<Fuse>), Unit::fma},

    {"add[.rn][.ftz][.sat].f16 d, a, b", half<Add, f16>, Unit::fma},
    {"add[.rn][.ftz][.sat].f16x2 d, a, b", half_pair<Add, f16, f16x2>, Unit::fma},
    {"sub[.rn][.ftz][.sat].f16 d, a, b", half<Subtract, f16>, Unit::fma},
    {"sub[.rn][.ftz][.sat].f16x2 d, a, b", half_pair<Subtract, f16, f16x2>, Unit::fma},
    {"mul[.rn][.ftz][.sat].f16 d, a, b", half<Multiply, f16>, Unit::fma},
    {"mul[.rn][.ftz][.sat].f16x2 d, a, b", half_pair<Multiply, f16, f16x2>, Unit::fma},
    {"fma.rn[.ftz][.{sat,relu}].f16 d, a, b, c", half<Fuse, f16>, Unit::fma},
    {"fma.rn[.ftz][.{sat,relu}].f16x2 d, a, b, c", half_pair<Fuse, f16, f16x2>, Unit::fma},
    {"add[.rn].bf16 d, a, b", half<Add, bf16>, Unit::fma},
    {"add[.rn].bf16x2 d, a, b", half_pair<Add, bf16, bf16x2>, Unit::fma},
    {"sub[.rn].bf16 d, a, b", half<Subtract, bf16>, Unit::fma},
    {"sub[.rn].bf16x2 d, a, b", half_pair<Subtract, bf16, bf16x2>, Unit::fma},
    {"mul[.rn].bf16 d, a, b", half<Multiply, bf16>, Unit::fma},
    {"mul[.rn].bf16x2 d, a, b", half_pair<Multiply, bf16, bf16x2>, Unit::fma},
    {"fma.rn[.relu].bf16 d, a, b, c", half<Fuse, bf16>, Unit::fma},
    {"fma.rn[.relu].bf16x2 d, a, b, c", half_pair<Fuse, bf16, bf16x2>, Unit::fma},

    {"min[.ftz][.NaN].f32 d, a, b[, c]", extreme_of_floats<false>, Unit::alu},
    {"max[.ftz][.NaN].f32 d, a, b[, c]", extreme_of_floats<true>, Unit::alu},
    {"min.f64 d, a, b", extreme_of<false, double>, Unit::alu},
    {"max.f64 d, a, b", extreme_of<true, double>, Unit::alu},
    {"min[.ftz][.NaN].f16 d, a, b", extreme_of<false, f16>, Unit::alu},
    {"max[.ftz][.NaN].f16 d, a, b", extreme_of<true, f16>, Unit::alu},
    {"min[.ftz][.NaN].f16x2 d, a, b", extreme_of_pairs<false, f16x2>, Unit::alu},
    {"max[.ftz][.NaN].f16x2 d, a, b", extreme_of_pairs<true, f16x2>, Unit::alu},
    {"min[.NaN].bf16 d, a, b", extreme_of<false, bf16>, Unit::alu},
    {"max[.NaN].bf16 d, a, b", extreme_of<true, bf16>, Unit::alu},
    {"min[.NaN].bf16x2 d, a, b", extreme_of_pairs<false, bf16x2>, Unit::alu},
    {"max[.NaN].bf16x2 d, a, b", extreme_of_pairs<true, bf16x2>, Unit::alu},

    {"neg.f32 d, a", lane<u32>(flip_sign), Unit::alu},
    {"neg.ftz.f32 d, a", lane<float>([](float a) { return -flush(a); }), Unit::alu},
    {"neg.f64 d, a", lane<u64>(flip_sign), Unit::alu},
    {"neg.{f16,bf16} d, a", lane<u16>(flip_sign), Unit::alu},
    {"neg.{f16x2,bf16x2} d, a", lane<u32>([](u32 a) { return a ^ both_signs; }), Unit::alu},
    {"abs.f32 d, a", lane<u32>(clear_sign), Unit::alu},
    {"abs.ftz.f32 d, a", lane<float>([](float a) { return std::fabs(flush(a)); }), Unit::alu},
    {"abs.f64 d, a", lane<u64>(clear_sign), Unit::alu},
    {"abs.{f16,bf16} d, a", lane<u16>(clear_sign), Unit::alu},
    {"abs.{f16x2,bf16x2} d, a", lane<u32>([](u32 a) { return a & ~both_signs; }), Unit::alu},
    {"copysign.f32 d, a, b", lane<float, float>([](float a, float b) { return std::copysign(b, a); }), Unit::alu},
    {"copysign.f64 d, a, b", lane<double, double>([](double a, double b) { return std::copysign(b, a); }), Unit::alu},

    {"div.rn.f32 d, a, b", lane<float, float>(quotient), Unit::mufu},
    {"div.rn.ftz.f32 d, a, b",
     lane<float, float>([](float a, float b) { return flush(quotient(flush(a), flush(b))); }), Unit::mufu},
    {"div.rn.f64 d, a, b", lane<double, double>([](double a, double b) { return a / b; }), Unit::mufu},
    {"rcp.rn.f32 d, a", lane<float>(reciprocal), Unit::mufu},
    {"rcp.rn.ftz.f32 d, a", lane<float>([](float a) { return flush(reciprocal(flush(a))); }), Unit::mufu},
    {"rcp.rn.f64 d, a", lane<double>([](double a) { return 1 / a; }), Unit::mufu},
    {"sqrt.rn.f32 d, a", lane<float>(root), Unit::mufu},
    {"sqrt.rn.ftz.f32 d, a", lane<float>([](float a) { return root(flush(a)); }), Unit::mufu},
    {"sqrt.rn.f64 d, a", lane<double>([](double a) { return std::sqrt(a); }), Unit::mufu},
};

}  // namespace

std::span<const Row> float_rows() { return rows; }

}  // namespace sim
