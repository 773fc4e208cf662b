// Conversions (PTX ISA, "Data Movement ...: cvt"): integers are chopped or extended, floats rounded exactly.
#include <algorithm>

#include "isa/families.h"
#include "isa/rounding.h"

namespace sim {
namespace {

u32 bits_of_type(std::string_view type) { return 8u * *type_bytes(type); }

// What an integer type is, as the fields of an instruction keep it.
u32 describe(std::string_view type) { return bits_of_type(type) | (type[0] == 's' ? 0x80u : 0u); }

// The low bits of x, extended with their sign or with zeros.
struct Extension {
  u64 mask, sign;
  explicit Extension(u32 description)
      : mask(~u64{0} >> (64 - (description & 0x7F))), sign(description & 0x80 ? mask ^ mask >> 1 : 0) {}
  u64 operator()(u64 x) const { return ((x & mask) ^ sign) - sign; }
};

// Registers may be wider than the types: the source is chopped, the result extended as its own type says.
template <class To, class From> Step resize(Warp& warp, const Inst& inst) {
  const From* a = warp.in<From>(inst.op[1]);
  To* d = warp.out<To>(inst.op[0]);
  const Extension read(inst.field[1]), written(inst.field[0]);
  if (warp.active == all_lanes) {
#pragma GCC ivdep
    for (int lane = 0; lane < warp_size; ++lane) d[lane] = static_cast<To>(written(read(a[lane])));
  } else {
    for (Mask rest = warp.active; rest; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      d[lane] = static_cast<To>(written(read(a[lane])));
    }
  }
  return Step::next();
}

// Writes an integer of any width into a register of any width.
void write(Warp& warp, const Operand& operand, int lane, u64 value) {
  switch (operand.bytes) {
    case 2: warp.out<u16>(operand)[lane] = static_cast<u16>(value); break;
    case 4: warp.out<u32>(operand)[lane] = static_cast<u32>(value); break;
    default: warp.out<u64>(operand)[lane] = value;
  }
}

// Both ends of every integer type, and all that lies between, are __int128.
__int128 least(u32 description) { return description & 0x80 ? -(__int128{1} << ((description & 0x7F) - 1)) : 0; }
__int128 greatest(u32 description) {
  const u32 value_bits = (description & 0x7F) - (description & 0x80 ? 1 : 0);
  return (__int128{1} << value_bits) - 1;
}
__int128 read_integer(const Warp& warp, const Inst& inst, int lane) {
  const u64 value = Extension(inst.field[1])(warp.value(inst.op[1], lane));
  return inst.field[1] & 0x80 ? __int128{static_cast<i64>(value)} : __int128{value};
}

Step resize_saturated(Warp& warp, const Inst& inst) {
  const __int128 low = least(inst.field[0]), high = greatest(inst.field[0]);
  for (Mask rest = warp.active; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    write(warp, inst.op[0], lane, static_cast<u64>(std::clamp(read_integer(warp, inst, lane), low, high)));
  }
  return Step::next();
}

template <class To> Execute resize_from(u32 bytes) {
  return bytes == 2 ? &resize<To, u16> : bytes == 4 ? &resize<To, u32> : &resize<To, u64>;
}
Execute bind_resize(Binding& binding) {
  binding.inst.field[0] = describe(binding.spelling.type(1));
  binding.inst.field[1] = describe(binding.spelling.type(0));
  if (binding.spelling.has("sat")) return &resize_saturated;
  const u32 from = binding.op[1].bytes;
  switch (binding.op[0].bytes) {
    case 2: return resize_from<u16>(from);
    case 4: return resize_from<u32>(from);
    default: return resize_from<u64>(from);
  }
}

// An integer as a double rounded to odd: only 64-bit ones can be inexact.
double integer_to_odd(__int128 x) {
  const double near = static_cast<double>(x);
  const __int128 back = static_cast<__int128>(near);
  const u64 too_far = x < 0 ? back < x : back > x, inexact = back != x;
  return std::bit_cast<double>((bits_of(near) - too_far) | inexact);
}

template <class To, Rounding rounding> Step from_integer(Warp& warp, const Inst& inst) {
  To* d = warp.out<To>(inst.op[0]);
  for (Mask rest = warp.active; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    const __int128 x = read_integer(warp, inst, lane);
    if constexpr (std::is_same_v<To, double>) d[lane] = static_cast<double>(x);
    else d[lane] = round_odd<rounding, To>(integer_to_odd(x));
  }
  return Step::next();
}

template <class To> Execute bind_from_integer(Binding& binding) {
  const std::string_view type = binding.spelling.type();
  binding.inst.field[1] = describe(type);
  return with_rounding(binding.spelling, [&](auto rounding) -> Execute {
    if constexpr (std::is_same_v<To, float> && rounding() == Rounding::nearest) {
      if (type == "s32" && binding.op[1].bytes == 4) return lane<i32>([](i32 a) { return static_cast<float>(a); });
      if (type == "u32" && binding.op[1].bytes == 4) return lane<u32>([](u32 a) { return static_cast<float>(a); });
    }
    return &from_integer<To, rounding()>;
  });
}

// Out of range gives the nearest end of it; NaN gives 0, or the top bit alone if either type has 64 bits.
template <class From, Rounding rounding, bool ftz> Step to_integers(Warp& warp, const Inst& inst) {
  const From* a = warp.in<From>(inst.op[1]);
  const u32 bits = inst.field[0] & 0x7F;
  const auto low = static_cast<double>(least(inst.field[0])), past = static_cast<double>(greatest(inst.field[0]) + 1);
  const u64 lowest = static_cast<u64>(least(inst.field[0])), highest = static_cast<u64>(greatest(inst.field[0]));
  const u64 for_nan = std::is_same_v<From, double> || bits == 64 ? u64{1} << (bits - 1) : 0;
  const Extension written(inst.field[0]);
  for (Mask rest = warp.active; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    double x = exact(a[lane]);
    if constexpr (ftz) x = exact(flush(a[lane]));
    x = to_integer<rounding>(x);
    u64 value = for_nan;
    if (x >= past) value = highest;
    else if (x <= low) value = lowest;
    else if (x == x) value = static_cast<u64>(static_cast<__int128>(x));
    write(warp, inst.op[0], lane, written(value));
  }
  return Step::next();
}

template <class From> Execute bind_to_integer(Binding& binding) {
  binding.inst.field[0] = describe(binding.spelling.type(1));
  return with_rounding(binding.spelling, [&](auto rounding) {
    constexpr Rounding how = rounding();
    if constexpr (std::is_same_v<From, float>)
      return with_flag(binding.spelling.has("ftz"), [](auto ftz) -> Execute { return &to_integers<From, how, ftz()>; });
    else return Execute{&to_integers<From, how, false>};
  });
}

// .relu: what is negative becomes +0 (NaN stays); .satfinite: what is infinite becomes the largest number.
template <class To, Rounding rounding, bool relu, bool satfinite> struct Narrow {
  static constexpr u32 infinity = std::is_same_v<To, bf16> ? 0x7F80 : 0x7C00;
  To operator()(float a) const {
    u32 bits = round<rounding, To>(a).bits;
    const u32 magnitude = bits & 0x7FFF;
    if constexpr (satfinite) bits = magnitude == infinity ? bits - 1 : bits;
    if constexpr (relu) bits = (bits & 0x8000) && magnitude <= infinity ? 0 : bits;
    return {static_cast<u16>(bits)};
  }
};
// d = {a, b}: a goes to the upper half.
template <class Pair, class Part> struct NarrowPair {
  Pair operator()(float a, float b) const { return {Part{}(b), Part{}(a)}; }
};

template <class To, class Pair> Execute bind_narrow(Binding& binding) {
  const Spelling& spelling = binding.spelling;
  return with_rounding(spelling, [&](auto rounding) {
    return with_flag(spelling.has("relu"), [&](auto relu) {
      return with_flag(spelling.has("satfinite"), [&](auto satfinite) -> Execute {
        using Part = Narrow<To, rounding(), relu(), satfinite()>;
        if constexpr (std::is_same_v<To, Pair>) return lane<float>(Part{});
        else return lane<float, float>(NarrowPair<Pair, Part>{});
      });
    });
  });
}

template <Rounding rounding, bool ftz, bool sat> struct DoubleToFloat {
  float operator()(double a) const {
    float result = canonical(round<rounding, float>(a));
    if constexpr (ftz) result = flush(result);
    return sat ? saturate(result) : result;
  }
};
template <Rounding rounding, bool to_whole, bool ftz, bool sat> struct FloatToFloat {
  float operator()(float a) const {
    if constexpr (ftz) a = flush(a);
    if constexpr (to_whole) a = static_cast<float>(to_integer<rounding>(double{a}));
    return sat ? saturate(a) : canonical(a);
  }
};
template <Rounding rounding> struct DoubleToWhole {
  double operator()(double a) const { return to_integer<rounding>(a); }
};

Execute bind_double_to_float(Binding& binding) {
  const Spelling& spelling = binding.spelling;
  return with_rounding(spelling, [&](auto rounding) {
    return with_flag(spelling.has("ftz"), [&](auto ftz) {
      return with_flag(spelling.has("sat"), [&](auto sat) -> Execute {
        return lane<double>(DoubleToFloat<rounding(), ftz(), sat()>{});
      });
    });
  });
}
Execute bind_float_to_float(Binding& binding) {
  const Spelling& spelling = binding.spelling;
  return with_rounding(spelling, [&](auto rounding) {
    return with_flag(!spelling.starting("r").empty(), [&](auto to_whole) {
      return with_flag(spelling.has("ftz"), [&](auto ftz) {
        return with_flag(spelling.has("sat"), [&](auto sat) -> Execute {
          return lane<float>(FloatToFloat<rounding(), to_whole(), ftz(), sat()>{});
        });
      });
    });
  });
}
Execute bind_double_to_whole(Binding& binding) {
  return with_rounding(binding.spelling, [](auto rounding) -> Execute {
    return lane<double>(DoubleToWhole<rounding()>{});
  });
}

const Row rows[] = {
    {"cvt[.sat].{s8,s16,s32,s64,u8,u16,u32,u64}.{s8,s16,s32,s64,u8,u16,u32,u64} d:before+, a+", Bind{bind_resize},
     Unit::alu},
    {"cvt.{rn,rz,rm,rp}.f32.{s8,s16,s32,s64,u8,u16,u32,u64} d:before, a+", Bind{bind_from_integer<float>}, Unit::alu},
    {"cvt.rn.f64.{s8,s16,s32,s64,u8,u16,u32,u64} d:before, a+", Bind{bind_from_integer<double>}, Unit::alu},
    {"cvt.{rn,rz,rm,rp}.f16.{s8,s16,s32,s64,u8,u16,u32,u64} d:before, a+", Bind{bind_from_integer<f16>}, Unit::alu},
    {"cvt.{rn,rz,rm,rp}.bf16.{s8,s16,s32,s64,u8,u16,u32,u64} d:before, a+", Bind{bind_from_integer<bf16>}, Unit::alu},
    {"cvt.{rni,rzi,rmi,rpi}[.ftz][.sat].{s8,s16,s32,s64,u8,u16,u32,u64}.f32 d:before+, a", Bind{bind_to_integer<float>},
     Unit::alu},
    {"cvt.{rni,rzi,rmi,rpi}[.sat].{s8,s16,s32,s64,u8,u16,u32,u64}.f64 d:before+, a", Bind{bind_to_integer<double>},
     Unit::alu},
    {"cvt.{rni,rzi,rmi,rpi}[.sat].{s8,s16,s32,s64,u8,u16,u32,u64}.f16 d:before+, a", Bind{bind_to_integer<f16>},
     Unit::alu},
    {"cvt.{rni,rzi,rmi,rpi}[.sat].{s8,s16,s32,s64,u8,u16,u32,u64}.bf16 d:before+, a", Bind{bind_to_integer<bf16>},
     Unit::alu},
    {"cvt[.ftz].f32.f16 d:before, a", lane<f16>([](f16 a) { return exact(a); }), Unit::alu},
    {"cvt.f32.bf16 d:before, a", lane<bf16>([](bf16 a) { return exact(a); }), Unit::alu},
    {"cvt.{rn,rz,rm,rp}[.relu][.satfinite].f16.f32 d:before, a", Bind{bind_narrow<f16, f16>}, Unit::alu},
    {"cvt.{rn,rz,rm,rp}[.relu][.satfinite].bf16.f32 d:before, a", Bind{bind_narrow<bf16, bf16>}, Unit::alu},
    {"cvt.{rn,rz}[.relu][.satfinite].f16x2.f32 d:before, a, b", Bind{bind_narrow<f16, f16x2>}, Unit::alu},
    {"cvt.{rn,rz}[.relu][.satfinite].bf16x2.f32 d:before, a, b", Bind{bind_narrow<bf16, bf16x2>}, Unit::alu},
    {"cvt.f64.f32 d:before, a", lane<float>([](float a) { return double{a}; }), Unit::alu},
    {"cvt.ftz.f64.f32 d:before, a", lane<float>([](float a) { return double{flush(a)}; }), Unit::alu},
    {"cvt.{rn,rz,rm,rp}[.ftz][.sat].f32.f64 d:before, a", Bind{bind_double_to_float}, Unit::alu},
    {"cvt[.{rni,rzi,rmi,rpi}][.ftz][.sat].f32.f32 d:before, a", Bind{bind_float_to_float}, Unit::alu},
    {"cvt.{rni,rzi,rmi,rpi}.f64.f64 d:before, a", Bind{bind_double_to_whole}, Unit::alu},
};

}  // namespace

std::span<const Row> convert_rows() { return rows; }

}  // namespace sim
