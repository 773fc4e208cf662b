// Compiled, never run: our own declarations of the driver API against the real cuda.h, where there is one.
#include "../../ffi/cuda/driver_abi.h"

#include <cuda.h>

#include <type_traits>

namespace own = jax_fa4::cuda;

// Two prototypes pass the same bytes in the same places.
template <class Own, class Real>
constexpr bool same_argument =
    sizeof(Own) == sizeof(Real) && alignof(Own) == alignof(Real) && std::is_pointer_v<Own> == std::is_pointer_v<Real>;
template <class Own, class Real>
constexpr bool same_call = false;
template <class Own, class... Owns, class Real, class... Reals>
  requires(sizeof...(Owns) == sizeof...(Reals))
constexpr bool same_call<Own(Owns...), Real(Reals...)> =
    same_argument<Own, Real> && (same_argument<Owns, Reals> && ...);

// cuda.h spells the prototype of cuMemAlloc_v2 as cuMemAlloc and renames it: both name the same function here.
#define SAME_CALL(name, parameters) static_assert(same_call<own::call::name, decltype(::name)>, #name);
JAX_FA4_CUDA_CALLS(SAME_CALL)

#define SAME_VALUE(name) static_assert(unsigned{own::name} == static_cast<unsigned>(::name), #name)
#include "constants.inc"  // one line for each constant of the header, which the test writes

#define SAME_SIZE(type) static_assert(sizeof(own::type) == sizeof(::type), #type)
#define SAME_OFFSET(type, member) \
  static_assert(offsetof(own::type, member) == offsetof(::type, member), #type "." #member)
SAME_SIZE(CUresult);
SAME_SIZE(CUdeviceptr);
SAME_SIZE(CUtensorMap);
SAME_SIZE(CUlaunchAttributeValue);
SAME_SIZE(CUlaunchAttribute);
SAME_SIZE(CUlaunchConfig);
static_assert(alignof(own::CUtensorMap) >= alignof(::CUtensorMap));
SAME_OFFSET(CUlaunchAttribute, id);
SAME_OFFSET(CUlaunchAttribute, value);
SAME_OFFSET(CUlaunchAttributeValue, clusterDim);
SAME_OFFSET(CUlaunchAttributeValue, programmaticStreamSerializationAllowed);
SAME_OFFSET(CUlaunchConfig, gridDimX);
SAME_OFFSET(CUlaunchConfig, blockDimX);
SAME_OFFSET(CUlaunchConfig, sharedMemBytes);
SAME_OFFSET(CUlaunchConfig, hStream);
SAME_OFFSET(CUlaunchConfig, attrs);
SAME_OFFSET(CUlaunchConfig, numAttrs);

static_assert(own::stream_non_blocking == CU_STREAM_NON_BLOCKING);
static_assert(own::register_portable == CU_MEMHOSTREGISTER_PORTABLE);
static_assert(own::register_device_map == CU_MEMHOSTREGISTER_DEVICEMAP);
static_assert(own::register_read_only == CU_MEMHOSTREGISTER_READ_ONLY);
