#include "handlers.h"

#include <cstring>

#include "../spec.h"
#include "context.h"
#include "error.h"
#include "host_memory.h"
#include "launch.h"
#include "module_cache.h"

namespace jax_fa4::cuda {
namespace {

namespace ffi = xla::ffi;

Problem read(ffi::RemainingArgs operands, ffi::RemainingRets results, ffi::Dictionary attributes) {
  const ffi::ErrorOr<Problem> problem = read_forward(operands, results, attributes);
  if (!problem.has_value()) throw problem.error();
  check_lengths(problem.value());
  return problem.value();
}

bool is_empty(const Problem& p) { return p.batch == 0 || p.query_length == 0; }

// The kernel of a call, in the current context; loaded by the first call that asks.
struct Chosen {
  std::shared_ptr<const Device> device;
  std::shared_ptr<const Variant> variant;
  CUfunction function = nullptr;
};

Chosen choose(const Driver& driver, const CurrentContext& context, const Problem& problem, Image image) {
  Chosen chosen;
  chosen.device = device_of(driver, context.get());
  chosen.variant = select(problem, *chosen.device);
  chosen.function = function_of(driver, context.get(), chosen.variant, image);
  return chosen;
}

void run(const Driver& driver, const CurrentContext& context, const Problem& problem, CUstream stream, Image image) {
  const Chosen chosen = choose(driver, context, problem, image);
  launch_forward({driver, *chosen.device, *chosen.variant, chosen.function, stream}, problem);
}

// Before the program runs or is captured: what can be missing is missed here, and the kernel is loaded.
ffi::Error initialize(CUstream stream, ffi::RemainingArgs operands, ffi::RemainingRets results,
                      ffi::Dictionary attributes) {
  return guard([&] {
    const Problem problem = read(operands, results, attributes);
    if (is_empty(problem)) return;
    const Driver& driver = the_driver();
    choose(driver, CurrentContext::of_stream(driver, stream), problem, Image::cubin);
  });
}

ffi::Error forward(CUstream stream, ffi::RemainingArgs operands, ffi::RemainingRets results,
                   ffi::Dictionary attributes) {
  return guard([&] {
    const Problem problem = read(operands, results, attributes);
    if (is_empty(problem)) return;
    const Driver& driver = the_driver();
    run(driver, CurrentContext::of_stream(driver, stream), problem, stream, Image::cubin);
  });
}

std::vector<HostRange> ranges_of(ffi::RemainingArgs operands, ffi::RemainingRets results) {
  std::vector<HostRange> ranges;
  for (size_t i = 0; i < operands.size(); ++i) {
    const auto buffer = operands.get<ffi::AnyBuffer>(i);
    if (buffer.has_value())
      ranges.push_back({reinterpret_cast<std::uintptr_t>(buffer->untyped_data()), buffer->size_bytes(), false});
  }
  for (size_t i = 0; i < results.size(); ++i) {
    auto result = results.get<ffi::AnyBuffer>(i);
    if (!result.has_value()) continue;
    const ffi::AnyBuffer& buffer = **result;
    if (buffer.element_count() == 0) continue;
    ranges.push_back({reinterpret_cast<std::uintptr_t>(buffer.untyped_data()), buffer.size_bytes(), true});
    // NaN in every float type: what a kernel forgot to write shows.
    std::memset(buffer.untyped_data(), 0xFF, buffer.size_bytes());
  }
  return ranges;
}

// The same launch without XLA's stream: its buffers are the host's, and the call ends when the kernel has ended.
ffi::Error forward_on_host(ffi::RemainingArgs operands, ffi::RemainingRets results, ffi::Dictionary attributes) {
  return guard([&] {
    const Problem problem = read(operands, results, attributes);
    if (is_empty(problem)) return;
    if (!driver_is_named())
      fail(ErrorCode::kFailedPrecondition,
           "implementation=\"sim\" runs the CUDA kernels on a driver that JAX_FA4_CUDA_DRIVER names, and it names "
           "none");
    const Driver& driver = the_driver();
    const CurrentContext context = CurrentContext::of_first_device(driver);
    const HostMemory memory(driver, context.get(), ranges_of(operands, results));
    run(driver, context, problem, nullptr, Image::ptx);
    check(driver, driver.cuCtxSynchronize(), "waiting for the kernel");
  });
}

}  // namespace
}  // namespace jax_fa4::cuda

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    jax_fa4_cuda_forward_initialize, jax_fa4::cuda::initialize,
    xla::ffi::Ffi::BindInitialize().Ctx<xla::ffi::PlatformStream<jax_fa4::cuda::CUstream>>()
        .RemainingArgs().RemainingRets().Attrs());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_cuda_forward, jax_fa4::cuda::forward,
                              xla::ffi::Ffi::Bind().Ctx<xla::ffi::PlatformStream<jax_fa4::cuda::CUstream>>()
                                  .RemainingArgs().RemainingRets().Attrs(),
                              {xla::ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_sim_forward, jax_fa4::cuda::forward_on_host,
                              xla::ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs());
