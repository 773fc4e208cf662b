#include "launch.h"

#include <algorithm>

#include "error.h"
#include "parameters.h"

namespace jax_fa4::cuda {
namespace {

constexpr std::int64_t longest = (std::int64_t{1} << 30) - 1;
constexpr std::int64_t most_ctas = std::int64_t{1} << 30;  // that a walk's next tile stays within 32 bits

// As many CTAs as there is work for, or as the GPU runs at a time. A cluster works on rows of one head.
unsigned ctas_of(const Launch& launch) {
  const Variant& variant = launch.variant;
  const std::int64_t cluster = variant.cluster[0], rows = variant.rows * cluster;
  const std::int64_t clusters_of_a_head = (launch.problem.query_length * launch.pack + rows - 1) / rows;
  const std::int64_t heads = launch.heads() * launch.entries;
  if (heads > most_ctas / (clusters_of_a_head * cluster))
    fail(ErrorCode::kInvalidArgument,
         "batch, heads and query length are too large together for one launch: call for parts of the batch");
  const std::int64_t ctas = clusters_of_a_head * heads * cluster;
  if (!variant.persistent) return unsigned(ctas);
  return unsigned(std::min(ctas, std::max(cluster, launch.device.multiprocessors / cluster * cluster)));
}

struct Attributes {
  CUlaunchAttribute list[2] = {};
  unsigned count = 0;

  explicit Attributes(const Variant& variant) {
    if (variant.cluster[0] > 1) {
      CUlaunchAttribute& attribute = list[count++];
      attribute.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
      attribute.value.clusterDim = {variant.cluster[0], variant.cluster[1], variant.cluster[2]};
    }
    if (variant.dependent) {
      CUlaunchAttribute& attribute = list[count++];
      attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
      attribute.value.programmaticStreamSerializationAllowed = 1;
    }
  }
};

void run(const Target& target, const Launch& launch) {
  const Variant& variant = target.variant;
  Value values[max_parameters];
  void* pointers[max_parameters];
  for (size_t i = 0; i < variant.parameters.size(); ++i) {
    set_value(values[i], target.driver, variant.parameters[i], launch);
    pointers[i] = &values[i];
  }
  Attributes attributes(variant);
  const CUlaunchConfig config = {ctas_of(launch), 1, 1, variant.threads, 1, 1, variant.shared_bytes,
                                 target.stream,   attributes.list, attributes.count};
  const CUresult result = target.driver.cuLaunchKernelEx(&config, target.function, pointers, nullptr);
  if (result != CUDA_SUCCESS)
    fail_call(target.driver, result,
              "launching " + variant.name + " (" + std::to_string(config.gridDimX) + " blocks of " +
                  std::to_string(variant.threads) + " threads) on " + target.device.name);
}

void check_length(std::int64_t length, const char* array, const char* instead) {
  if (length > longest)
    fail(ErrorCode::kInvalidArgument, std::string(array) + " has length " + std::to_string(length) +
                                          "; the CUDA kernels take lengths below 2^30. " + instead);
}

}  // namespace

void check_lengths(const Problem& problem) {
  check_length(problem.query_length, "query", "Call for parts of the queries: each stands alone");
  check_length(problem.key_length, "key", "Call for parts of the keys, and join the results with jax_fa4.merge");
}

void launch_forward(const Target& target, const Problem& problem) {
  Launch launch{problem, target.variant, target.device};
  launch.pack = pack_of(problem, target.variant);
  launch.entries = entries_of_a_launch(problem, target.variant);
  for (; launch.first < problem.batch; launch.first += launch.entries) run(target, launch);
}

}  // namespace jax_fa4::cuda
