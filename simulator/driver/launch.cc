// Launches (CUDA driver API, "Execution Control"): the documented checks, then machine/grid executes the kernel.
#include <cstring>

#include "driver/state.h"

namespace sim::driver {
namespace {

// A launch configuration, read.
struct Request {
  Dim3 grid, block, cluster;
  u32 dynamic_shared = 0;
  bool dependent = false;
};

void read_attributes(const CUlaunchConfig& config, Request& request) {
  if (config.numAttrs > 0) check_pointer(config.attrs, "attrs");
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config.attrs[i];
    const std::string name = "launch attribute " + std::to_string(static_cast<unsigned>(attribute.id));
    switch (attribute.id) {
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION: {
        const auto& cluster = attribute.value.clusterDim;
        request.cluster = {cluster.x, cluster.y, cluster.z};
        break;
      }
      case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
        request.dependent = attribute.value.programmaticStreamSerializationAllowed != 0;
        break;
      // Hints: they change no result.
      case CU_LAUNCH_ATTRIBUTE_IGNORE:
      case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
      case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      case CU_LAUNCH_ATTRIBUTE_PRIORITY:
      case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
      case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
      case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: break;
      case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        if (attribute.value.cooperative == 0) break;
        [[fallthrough]];
      case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT:
      case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
      case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT:
      case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE:
        refuse(CUDA_ERROR_NOT_SUPPORTED, name + " is not modelled");
      default: refuse(CUDA_ERROR_INVALID_VALUE, "there is no " + name);
    }
  }
}

// Each of three extents from 1 to what the device allows; `first` is the attribute of x, those of y and z follow it.
void check_extents(const Dim3& extent, CUdevice_attribute first, const Device& device, const char* name) {
  const u32 given[] = {extent.x, extent.y, extent.z};
  for (unsigned i = 0; i < 3; ++i) {
    const u32 most = device.get(static_cast<CUdevice_attribute>(first + i));
    if (given[i] == 0 || given[i] > most)
      refuse(CUDA_ERROR_INVALID_VALUE,
             std::string(name) + " " + text(extent) + ": " + "xyz"[i] + " must be from 1 to " + std::to_string(most));
  }
}

void check_block(const Dim3& block, const Program& program, const Device& device) {
  check_extents(block, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, device, "block");
  const Dim3& required = program.required_threads;
  if (required.volume() > 0 && (block.x != required.x || block.y != required.y || block.z != required.z))
    refuse(CUDA_ERROR_INVALID_VALUE,
           "block " + text(block) + ": the kernel requires " + text(required) + " (.reqntid)");
  const u32 usual = device.get(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
  const u32 most = program.max_threads > 0 && program.max_threads < usual ? program.max_threads : usual;
  if (block.volume() > most)
    refuse(CUDA_ERROR_INVALID_VALUE, "block " + text(block) + " has " + std::to_string(block.volume()) +
                                         " threads; at most " + std::to_string(most) + " are allowed");
}

void check_cluster(const Request& request, const Kernel& kernel) {
  const Dim3 &cluster = request.cluster, &grid = request.grid;
  const std::string given = "cluster " + text(cluster);
  const u64 ctas = cluster.volume();
  if (ctas == 0 || grid.x % cluster.x || grid.y % cluster.y || grid.z % cluster.z)
    refuse(CUDA_ERROR_INVALID_CLUSTER_SIZE, given + " does not divide the grid " + text(grid));
  const u32 most = kernel.non_portable_cluster ? largest_cluster : portable_cluster;
  if (ctas > most)
    refuse(CUDA_ERROR_INVALID_CLUSTER_SIZE,
           given + " has " + std::to_string(ctas) + " blocks; at most " + std::to_string(most) + " are allowed" +
               (most == portable_cluster ? " without NON_PORTABLE_CLUSTER_SIZE_ALLOWED" : ""));
  // Hardware leaves this undefined: a cta_group::2 instruction of a block that has no peer.
  if (kernel.program->pairs_ctas && ctas % 2 != 0)
    refuse(CUDA_ERROR_INVALID_CLUSTER_SIZE,
           given + ": the kernel pairs CTAs, the cluster must have an even size");
}

void check_shared(u32 dynamic, const Kernel& kernel, const Device& device) {
  const u64 total = u64{dynamic} + kernel.program->static_shared_bytes;
  const u32 most = device.get(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  if (total > most)
    refuse(CUDA_ERROR_INVALID_VALUE, std::to_string(total) + " bytes of shared memory; the device has at most " +
                                         std::to_string(most) + " a block");
  if (dynamic > static_cast<u32>(kernel.max_dynamic_shared))
    refuse(CUDA_ERROR_INVALID_VALUE,
           std::to_string(dynamic) + " bytes of dynamic shared memory; the kernel's MAX_DYNAMIC_SHARED_SIZE_BYTES is " +
               std::to_string(kernel.max_dynamic_shared));
}

// `extra`: names and values up to CU_LAUNCH_PARAM_END, which give all parameters as one block of bytes.
std::vector<u8> read_extra(void** extra, const Program& program) {
  const void* buffer = nullptr;
  std::size_t bytes = 0;
  for (; reinterpret_cast<std::uintptr_t>(*extra) != launch_param_end; extra += 2) {
    const auto name = reinterpret_cast<std::uintptr_t>(*extra);
    check_pointer(extra[1], "a value of extra");
    if (name == launch_param_pointer) buffer = extra[1];
    else if (name == launch_param_size) bytes = *static_cast<const std::size_t*>(extra[1]);
    else refuse(CUDA_ERROR_INVALID_VALUE, "extra has no entry " + hexadecimal(name));
  }
  check_pointer(buffer, "extra's buffer");
  if (bytes < program.parameter_bytes)
    refuse(CUDA_ERROR_INVALID_VALUE, "extra has " + std::to_string(bytes) + " bytes of parameters; the kernel takes " +
                                         std::to_string(program.parameter_bytes));
  const u8* first = static_cast<const u8*>(buffer);
  return {first, first + program.parameter_bytes};
}

std::vector<u8> read_parameters(void** parameters, void** extra, const Program& program) {
  if (parameters && extra) refuse(CUDA_ERROR_INVALID_VALUE, "give kernelParams or extra, not both");
  if (extra) return read_extra(extra, program);
  std::vector<u8> block(program.parameter_bytes);
  if (program.parameters.empty()) return block;
  check_pointer(parameters, "kernelParams");
  for (std::size_t i = 0; i < program.parameters.size(); ++i) {
    const Parameter& parameter = program.parameters[i];
    if (!parameters[i])
      refuse(CUDA_ERROR_INVALID_VALUE,
             "kernelParams[" + std::to_string(i) + "] (" + parameter.name + ") is a null pointer");
    std::memcpy(block.data() + parameter.offset, parameters[i], parameter.bytes);
  }
  return block;
}

CUresult code_of(const check::Report& report) {
  using check::Kind;
  switch (report.kind) {
    case Kind::out_of_bounds: return CUDA_ERROR_ILLEGAL_ADDRESS;
    case Kind::misaligned: return CUDA_ERROR_MISALIGNED_ADDRESS;
    case Kind::deadlock:
    case Kind::livelock: return CUDA_ERROR_LAUNCH_TIMEOUT;
    case Kind::undefined: return CUDA_ERROR_ILLEGAL_INSTRUCTION;
    case Kind::race:
    case Kind::uninitialised:
    case Kind::barrier:
    case Kind::tensor_memory:
    case Kind::not_awaited:
    case Kind::registers:
    case Kind::unelected: break;
  }
  return CUDA_ERROR_LAUNCH_FAILED;
}

// A report that is not fatal leaves the launch a success: it waits in the record. On hardware a failed kernel ends its
// context; here the context stays usable, so that one failing test does not spoil the next.
void judge(LaunchRecord& record) {
  if (!record.result.failed) return;
  record.status = CUDA_ERROR_LAUNCH_FAILED;
  for (std::size_t i = 0; i < record.result.reports.size(); ++i) {
    if (!record.result.reports[i].fatal) continue;
    record.status = code_of(record.result.reports[i]);
    record.words = i < record.result.rendered.size() ? record.result.rendered[i] : record.result.reports[i].title;
    return;
  }
}

struct Prepared {
  Launch launch;
  Options options;
  std::vector<std::shared_ptr<Buffer>> kept;  // memory freed by another thread lives until the kernel has ended
  std::vector<Allocation> memory;
};

Prepared prepare(const State& state, const Kernel& kernel, const Request& request, void** parameters, void** extra) {
  const Device& device = *state.device;
  check_extents(request.grid, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, device, "grid");
  check_block(request.block, *kernel.program, device);
  check_cluster(request, kernel);
  check_shared(request.dynamic_shared, kernel, device);
  Prepared prepared;
  prepared.options = state.options.value_or(Options());
  for (const auto& [address, buffer] : state.memory) {
    prepared.kept.push_back(buffer);
    prepared.memory.push_back({buffer->address, buffer->bytes, buffer->writable});
  }
  Launch& launch = prepared.launch;
  launch.program = kernel.program;
  launch.grid = request.grid;
  launch.block = request.block;
  launch.cluster = request.cluster;
  launch.dynamic_shared = request.dynamic_shared;
  launch.parameters = read_parameters(parameters, extra, *kernel.program);
  launch.dependent = request.dependent;
  launch.device = limits(device, kernel.non_portable_cluster ? largest_cluster : portable_cluster);
  return prepared;
}

// Fills the record as far as it comes; the lock is not held while the kernel runs.
void execute(const CUlaunchConfig& config, CUfunction function, void** parameters, void** extra, LaunchRecord& record) {
  std::optional<Prepared> prepared;
  {
    Locked state = initialised();
    const auto kernel = state->kernel_of(function);
    record.program = kernel->program;
    record.kernel = kernel->program->name;
    state->check_stream(config.hStream);
    Request request;
    request.grid = record.grid;
    request.block = record.block;
    request.dynamic_shared = record.dynamic_shared;
    read_attributes(config, request);
    record.cluster = request.cluster;
    prepared = prepare(*state, *kernel, request, parameters, extra);
  }
  try {
    record.result = run(prepared->launch, prepared->memory, prepared->options);
  } catch (const Error& error) {
    refuse(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, error.what());
  }
  judge(record);
  if (record.status != CUDA_SUCCESS) refuse(record.status, record.words);
}

void launch(const CUlaunchConfig& config, CUfunction function, void** parameters, void** extra) {
  LaunchRecord record{};
  record.grid = {config.gridDimX, config.gridDimY, config.gridDimZ};
  record.block = {config.blockDimX, config.blockDimY, config.blockDimZ};
  record.dynamic_shared = config.sharedMemBytes;
  std::optional<Refusal> refusal;
  try {
    execute(config, function, parameters, extra, record);
  } catch (const Refusal& caught) {
    refusal = caught;
    record.status = caught.code;
    record.words = caught.words;
  }
  if (record.program) Locked()->launches.push_back(std::move(record));  // an unknown function leaves no record
  if (refusal) throw *refusal;
}

}  // namespace

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void** extra) {
  return answer("cuLaunchKernelEx", [&] {
    initialised();
    check_pointer(config, "config");
    launch(*config, function, parameters, extra);
  });
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters,
                        void** extra) {
  return answer("cuLaunchKernel", [&] {
    const CUlaunchConfig config{grid_x,  grid_y,       grid_z, block_x, block_y,
                                block_z, shared_bytes, stream, nullptr, 0};
    launch(config, function, parameters, extra);
  });
}

}  // namespace sim::driver
