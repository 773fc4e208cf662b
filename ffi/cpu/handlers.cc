#include "handlers.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../spec.h"
#include "kernels.h"
#include "memory.h"
#include "parallel.h"
#include "plan.h"

namespace jax_fa4::cpu {
namespace {

namespace ffi = xla::ffi;

// JAX_FA4_CPU_THREADS overrides the size of XLA's pool (the environment is read at each call: tests vary it).
int64_t threads_of(const ffi::ThreadPool& pool) {
  if (const char* text = std::getenv("JAX_FA4_CPU_THREADS"))
    if (const int64_t threads = std::atoll(text); threads > 0) return std::min<int64_t>(threads, 1024);
  return std::max<int64_t>(1, pool.num_threads());
}

ffi::Error no_memory(size_t bytes) {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                    "jax_fa4: out of memory: could not allocate " + std::to_string(bytes) + " bytes of workspace");
}

// Runs one phase; each task gets scratch memory of the thread that it runs on.
template <class Task>
ffi::Error run_phase(ffi::ThreadPool& pool, int64_t tasks, size_t scratch_bytes, const Task& run) {
  std::atomic<bool> out_of_memory{false};
  parallel_for(pool, threads_of(pool), tasks, [&](int64_t task) {
    const Scratch scratch(scratch_bytes);
    if (scratch.get()) run(task, scratch.get());
    else out_of_memory = true;
  });
  return out_of_memory ? no_memory(scratch_bytes) : ffi::Error::Success();
}

// Brings keys and values into the form that the kernels read, where several tiles of rows read them.
ffi::Error pack(ffi::ThreadPool& pool, const Problem& p, const Kernels& k, Pass pass, Plan& plan, Memory& packed) {
  if (!plan.packed_tasks) return ffi::Error::Success();
  const size_t bytes = size_t(plan.packed_tasks) * k.packed_bytes(p, pass);
  packed = allocate(bytes);
  if (!packed) return no_memory(bytes);
  plan.packed = packed.get();
  return run_phase(pool, plan.packed_tasks, k.pack_scratch(p, pass),
                   [&](int64_t task, void* scratch) { k.pack(p, plan, pass, task, scratch); });
}

ffi::ErrorOr<const Kernels*> kernels() {
  if (const Kernels* chosen = chosen_kernels()) return chosen;
  return ffi::Unexpected(ffi::Error::InvalidArgument(
      std::string("jax_fa4: JAX_FA4_CPU_ISA=") + std::getenv("JAX_FA4_CPU_ISA") +
      ": no such instruction set on this machine; there are " + kernel_names()));
}

ffi::Error forward(ffi::ThreadPool pool, ffi::RemainingArgs operands, ffi::RemainingRets results,
                   ffi::Dictionary attributes) {
  const ffi::ErrorOr<Problem> problem = read_forward(operands, results, attributes);
  if (!problem.has_value()) return problem.error();
  const ffi::ErrorOr<const Kernels*> chosen = kernels();
  if (!chosen.has_value()) return chosen.error();
  if (problem->batch == 0 || problem->query_length == 0) return ffi::Error::Success();  // no rows
  const Kernels& k = **chosen;
  Plan plan = forward_plan(*problem, k.tiles(*problem, Pass::forward));
  Memory packed, parts;
  if (ffi::Error error = pack(pool, *problem, k, Pass::forward, plan, packed); error.failure()) return error;
  if (plan.merge_tasks) {
    const size_t part_bytes = size_t(plan.forward_tasks) * k.part_bytes(*problem, plan);
    parts = allocate(part_bytes);
    if (!parts) return no_memory(part_bytes);
    plan.forward_parts = parts.get();
  }
  const size_t scratch_bytes = k.forward_scratch(*problem, plan);
  const ffi::Error error = run_phase(pool, plan.forward_tasks, scratch_bytes, [&](int64_t task, void* scratch) {
    k.forward(*problem, plan, task, scratch);
  });
  if (error.failure()) return error;
  return run_phase(pool, plan.merge_tasks, scratch_bytes,
                   [&](int64_t task, void* scratch) { k.merge(*problem, plan, task, scratch); });
}

// Adds up what the tasks found for each query head, over the batch entries that share it, in the order of the tasks.
void reduce_rows(const Problem& p, const Plan& plan, const Operand& to, const SharedBatches& batches, int which,
                 void (*store)(const Operand&, int64_t, double)) {
  if (!to) return;
  for (int64_t slab = 0; slab < batches.slabs; ++slab)
    for (int64_t head = 0; head < p.query_heads; ++head) {
      double sum = 0;
      for (int64_t sharer = 0; sharer < batches.sharers; ++sharer) {
        const int64_t unit = batches.batch(slab, sharer) * p.key_value_heads + head / p.group();
        for (int64_t stripe = 0; stripe < plan.stripes; ++stripe)
          sum += plan.row_partials[((unit * plan.stripes + stripe) * p.group() + head % p.group()) * 2 + which];
      }
      store(to, to.batch.offset(batches.batch(slab, 0)) + head, sum);
    }
}

void zero_results(ffi::RemainingRets results) {
  for (size_t i = 0; i < results.size(); ++i) {
    auto buffer = results.get<ffi::AnyBuffer>(i);
    if (buffer.has_value() && (*buffer)->element_count() > 0)
      std::memset((*buffer)->untyped_data(), 0, (*buffer)->size_bytes());
  }
}

ffi::Error backward(ffi::ThreadPool pool, ffi::RemainingArgs operands, ffi::RemainingRets results,
                    ffi::Dictionary attributes) {
  const ffi::ErrorOr<Problem> problem = read_backward(operands, results, attributes);
  if (!problem.has_value()) return problem.error();
  const ffi::ErrorOr<const Kernels*> chosen = kernels();
  if (!chosen.has_value()) return chosen.error();
  const Problem& p = *problem;
  const Kernels& k = **chosen;
  if (p.batch == 0 || p.query_length == 0) {  // sums over nothing
    zero_results(results);
    return ffi::Error::Success();
  }

  Plan plan = backward_plan(p, k.tiles(p, Pass::backward), k.bias_tiles(p));
  Memory packed;
  const size_t row_bytes = size_t(plan.backward_tasks * p.group() * 2) * sizeof(double);
  const size_t partial_bytes = plan.stripes > 1 ? size_t(plan.backward_tasks) * k.partial_bytes(p) : 0;
  const Memory rows = allocate(row_bytes), partials = allocate(partial_bytes);
  if (!rows || !partials) return no_memory(row_bytes + partial_bytes);
  std::memset(rows.get(), 0, row_bytes);
  plan.row_partials = static_cast<double*>(rows.get());
  plan.key_value_partials = partials.get();

  const Gradients& gradients = p.gradients;
  if (gradients.query || gradients.key || gradients.value || gradients.sinks || gradients.alibi_slopes) {
    ffi::Error error = pack(pool, p, k, Pass::backward, plan, packed);
    if (error.failure()) return error;
    error = run_phase(pool, plan.backward_tasks, k.backward_scratch(p, plan),
                                 [&](int64_t task, void* scratch) { k.backward(p, plan, task, scratch); });
    if (error.failure()) return error;
    error = run_phase(pool, plan.reduce_tasks, 0, [&](int64_t task, void*) { k.reduce(p, plan, task); });
    if (error.failure()) return error;
    reduce_rows(p, plan, gradients.sinks, gradients.sinks_batches, 0, k.store_number);
    reduce_rows(p, plan, gradients.alibi_slopes, gradients.slopes_batches, 1, k.store_number);
  }
  return run_phase(pool, plan.bias_tasks, k.bias_scratch(p),
                   [&](int64_t task, void* scratch) { k.bias_gradient(p, plan, task, scratch); });
}

}  // namespace
}  // namespace jax_fa4::cpu

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_cpu_forward, jax_fa4::cpu::forward,
                              xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_cpu_backward, jax_fa4::cpu::backward,
                              xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs());
