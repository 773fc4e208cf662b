// The machine's pure functions for the tests: tensor maps, descriptors, the matrix product.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "machine/descriptor.h"
#include "machine/tensor_core.h"
#include "machine/tensor_map.h"

namespace nb = nanobind;

namespace sim {
namespace {

template <class T, int rank>
using Array = nb::ndarray<T, nb::ndim<rank>, nb::c_contig, nb::device::cpu>;

// Errors of the simulator are ValueErrors in Python.
template <class Function>
auto in_words(Function function) {
  try {
    return function();
  } catch (const Error& error) {
    throw nb::value_error(error.what());
  }
}

void require(bool holds, const char* otherwise) {
  if (!holds) throw nb::value_error(otherwise);
}

nb::bytes encode_map(u32 type, u64 address, const std::vector<u64>& extent, const std::vector<u64>& stride,
                     const std::vector<u32>& box, const std::vector<u32>& element_stride, u32 interleave, u32 swizzle,
                     u32 l2_promotion, u32 fill) {
  const std::size_t rank = extent.size();
  require(stride.size() + 1 == (rank ? rank : 1) && box.size() == rank && element_stride.size() == rank,
          "extent, box and element_stride need rank entries, stride one less");
  TensorMap map;
  static constexpr u64 no_strides = 0;  // an empty vector has no address to give
  const TensorMapRequest request{ElementType{type},
                                 static_cast<u32>(rank),
                                 address,
                                 extent.data(),
                                 stride.empty() ? &no_strides : stride.data(),
                                 box.data(),
                                 element_stride.data(),
                                 Interleave{interleave},
                                 Swizzle{swizzle},
                                 l2_promotion,
                                 OutOfBoundsFill{fill}};
  if (auto wrong = encode(request, map)) throw nb::value_error(wrong->c_str());
  return nb::bytes(reinterpret_cast<const char*>(&map), sizeof map);
}

TensorMap decode_map(const nb::bytes& bytes) {
  require(bytes.size() == sizeof(TensorMap), "a tensor map has 128 bytes");
  std::string why;
  auto map = decode(bytes.c_str(), &why);
  if (!map) throw nb::value_error(why.c_str());
  return *map;
}

std::vector<std::tuple<u64, u32, u32>> walk_map(const nb::bytes& bytes, const std::vector<i32>& coordinates) {
  const TensorMap map = decode_map(bytes);
  require(coordinates.size() == map.rank, "as many coordinates as the rank are needed");
  std::vector<std::tuple<u64, u32, u32>> pieces;
  for (const BoxPiece& piece : walk(map, coordinates.data()))
    pieces.emplace_back(piece.address, piece.shared, piece.bytes);
  return pieces;
}

u32 swizzled_address(u32 mode, u32 address) {
  return in_words([&] { return swizzled(Swizzle{mode}, address); });
}

using View = void (*)(u64, bool, u32, u32, MatrixView&);

template <View make>
std::vector<u32> chunks(u64 descriptor, bool mn_major, u32 rows) {
  require(rows % 8 == 0 && rows <= 256, "rows must be a multiple of 8 up to 256");
  MatrixView view;
  in_words([&] { make(descriptor, mn_major, rows, 16, view); });
  return view.chunks;
}

template <View make>
void gather_into(u64 descriptor, bool mn_major, Array<const u8, 1> shared, Array<u16, 2> elements) {
  require(elements.shape(1) == 16 && elements.shape(0) % 8 == 0, "elements must be (a multiple of 8, 16)");
  MatrixView view;
  in_words([&] { make(descriptor, mn_major, static_cast<u32>(elements.shape(0)), 16, view); });
  for (const u32 chunk : view.chunks)
    require(u64{chunk} + 16 <= shared.size(), "the matrix reaches beyond shared memory");
  gather(view, shared.data(), elements.data());
}

nb::dict instruction(u32 bits, int cta_group) {
  require(cta_group == 1 || cta_group == 2, "cta_group must be 1 or 2");
  const InstructionDescriptor found = in_words([&] { return instruction_descriptor(bits, cta_group); });
  constexpr const char* elements[] = {"f16", "bf16", "f32"};
  nb::dict fields;
  fields["a"] = elements[static_cast<u32>(found.a)];
  fields["b"] = elements[static_cast<u32>(found.b)];
  fields["d"] = elements[static_cast<u32>(found.d)];
  fields["a_mn_major"] = found.a_mn_major;
  fields["b_mn_major"] = found.b_mn_major;
  fields["negate_a"] = found.negate_a;
  fields["negate_b"] = found.negate_b;
  fields["m"] = found.m;
  fields["n"] = found.n;
  return fields;
}

void widen_into(const std::string& element, Array<const u16, 1> bits, Array<float, 1> out) {
  require(element == "f16" || element == "bf16", "element must be f16 or bf16");
  require(bits.size() == out.size(), "bits and out must have one size");
  widen(element == "f16" ? Element::f16 : Element::bf16, bits.data(), out.data(), bits.size());
}

void multiply_into(Array<float, 2> d, Array<const float, 2> a, Array<const float, 2> b, u32 n, bool accumulate) {
  require(a.shape(1) == b.shape(1) && d.shape(0) == a.shape(0) && n <= b.shape(0) && n <= d.shape(1),
          "d (m, at least n), a (m, k), b (at least n, k)");
  multiply(d.data(), static_cast<u32>(d.shape(1)), a.data(), b.data(), static_cast<u32>(a.shape(0)), n,
           static_cast<u32>(a.shape(1)), accumulate);
}

}  // namespace

void bind_machine(nb::module_& module) {
  using namespace nb::literals;
  module.def("encode_tensor_map", encode_map, nb::kw_only(), "type"_a, "address"_a, "extent"_a, "stride"_a, "box"_a,
             "element_stride"_a, "interleave"_a = 0, "swizzle"_a = 0, "l2_promotion"_a = 0, "fill"_a = 0,
             "The 128 bytes of cuTensorMapEncodeTiled; ValueError says which rule is broken.");
  module.def("walk_tensor_map", walk_map, "map"_a, "coordinates"_a,
             "The pieces of a box as (address or 0, offset in shared memory before swizzling, bytes).");
  module.def("swizzled", swizzled_address, "mode"_a, "address"_a,
             "A shared address after swizzling, by the driver API's number of the mode.");
  module.def("view_sm100", chunks<view_sm100>, "descriptor"_a,
             "mn_major"_a, "rows"_a, "Shared addresses of a matrix operand's 16-byte chunks.");
  module.def("view_sm90", chunks<view_sm90>, "descriptor"_a,
             "mn_major"_a, "rows"_a, "Shared addresses of a matrix operand's 16-byte chunks.");
  module.def("gather_sm100", gather_into<view_sm100>, "descriptor"_a,
             "mn_major"_a, "shared"_a, "elements"_a, "Reads a matrix operand from shared memory into (rows, 16).");
  module.def("gather_sm90", gather_into<view_sm90>, "descriptor"_a,
             "mn_major"_a, "shared"_a, "elements"_a, "Reads a matrix operand from shared memory into (rows, 16).");
  module.def("instruction_descriptor", instruction, "bits"_a, "cta_group"_a,
             "The fields of a tcgen05.mma kind::f16 descriptor.");
  module.def("widen", widen_into, "element"_a, "bits"_a, "out"_a, "f16 or bf16 bits to float32.");
  module.def("multiply", multiply_into, "d"_a, "a"_a, "b"_a, "n"_a, "accumulate"_a, "d[:, :n] (+)= a @ b[:n].T");
}

}  // namespace sim
