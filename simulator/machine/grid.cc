// A launch: clusters taken by worker threads, until all have ended or a fatal report stops them.
#include <cfenv>
#include <thread>

#include "machine/grid_state.h"

namespace sim {

namespace {

// In the form that JAX_FA4_SIMULATOR_OPTIONS takes.
std::string describe(const Options& options) {
  static constexpr const char* names[] = {"eager", "random", "lazy"};
  std::string text = std::string("schedule=") + names[static_cast<int>(options.schedule)];
  if (options.schedule == Schedule::random) text += ",seed=" + std::to_string(options.seed);
  if (options.threads > 1) text += ",threads=" + std::to_string(options.threads);
  return text;
}

// Deletes an instruction for mutation testing. What waits for an answer gets it: a try_wait says true.
Step skipped(Warp& warp, const Inst& inst) {
  for (u32 i = 0; i < inst.ops; ++i)
    if (inst.op[i].bytes == 0 && i == 0) warp.write_predicate(inst.op[0], all_lanes);
  return Step::next();
}

// Arithmetic as in a fresh thread while it lives: a caller may round otherwise, or flush subnormals to zero, as XLA does.
// Threads that are started meanwhile take it over.
class DefaultArithmetic {
 public:
  DefaultArithmetic() {
    std::fegetenv(&callers_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultArithmetic() { std::fesetenv(&callers_); }
  DefaultArithmetic(const DefaultArithmetic&) = delete;
  DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;

 private:
  std::fenv_t callers_;
};

void validate(const Launch& launch) {
  const Program& program = *launch.program;
  auto refuse = [&](const std::string& why) { throw Error("launch of " + program.name + ": " + why); };
  auto text = [](const Dim3& d) {
    return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
  };
  const Dim3 &grid = launch.grid, &cluster = launch.cluster, &needed = program.required_threads;
  if (!grid.volume() || !launch.block.volume() || !cluster.volume())
    refuse("grid, block and cluster must not be empty");
  if (grid.volume() > 1u << 31) refuse("grid " + text(grid) + " is too large");
  if (launch.block.volume() > 1024) refuse("block " + text(launch.block) + " has more than 1024 threads");
  if (needed.volume() && (needed.x != launch.block.x || needed.y != launch.block.y || needed.z != launch.block.z))
    refuse("block is " + text(launch.block) + ", the kernel requires " + text(needed) + " (.reqntid)");
  if (grid.x % cluster.x || grid.y % cluster.y || grid.z % cluster.z)
    refuse("cluster " + text(cluster) + " does not divide the grid " + text(grid));
  if (cluster.volume() > 16) refuse("cluster " + text(cluster) + " has more than 16 CTAs");
  if (program.pairs_ctas && cluster.volume() % 2)
    refuse("a cta_group::2 kernel needs a cluster of an even number of CTAs");
  u64 shared = u64{program.static_shared_bytes} + launch.dynamic_shared;
  if (shared > launch.device.shared_bytes)
    refuse(std::to_string(shared) + " bytes of shared memory, the device has " +
           std::to_string(launch.device.shared_bytes));
  if (launch.parameters.size() != program.parameter_bytes)
    refuse(std::to_string(launch.parameters.size()) + " bytes of parameters, the kernel takes " +
           std::to_string(program.parameter_bytes));
}

}  // namespace

Counters& Counters::operator+=(const Counters& o) {
  warp_instructions += o.warp_instructions, issue_slots += o.issue_slots;
  mufu_operations += o.mufu_operations, fma_operations += o.fma_operations, alu_operations += o.alu_operations;
  tensor_macs += o.tensor_macs, tensor_instructions += o.tensor_instructions, tensor_cycles += o.tensor_cycles;
  shared_read_bytes += o.shared_read_bytes, shared_write_bytes += o.shared_write_bytes;
  shared_wavefronts += o.shared_wavefronts, shared_wavefronts_ideal += o.shared_wavefronts_ideal;
  tensor_memory_read_bytes += o.tensor_memory_read_bytes, tensor_memory_write_bytes += o.tensor_memory_write_bytes;
  global_read_bytes += o.global_read_bytes, global_write_bytes += o.global_write_bytes, copy_bytes += o.copy_bytes;
  return *this;
}

Grid::Grid(const Launch& launch_, const std::vector<Allocation>& memory_, const Options& options_)
    : launch(launch_), options(options_), program(*launch_.program), memory(memory_),
      reports(program, describe(options_), options_.max_reports), global_history(check::make_global_history()),
      cluster_ctas(static_cast<u32>(launch_.cluster.volume())),
      clusters(static_cast<u32>(launch_.grid.volume() / launch_.cluster.volume())) {
  for (u32 pc : options.skip) program.code.at(pc).execute = skipped;
  result_.executed.resize(program.code.size());
}

Dim3 Grid::first_cta(u32 cluster) const {
  const Dim3 &grid = launch.grid, &shape = launch.cluster;
  u32 across = grid.x / shape.x, down = grid.y / shape.y;
  return {cluster % across * shape.x, cluster / across % down * shape.y, cluster / (across * down) * shape.z};
}

u32 Grid::dynamic_shared_offset() const {
  u32 align = std::max(program.dynamic_shared_align, 16u);
  return (launch.device.reserved_shared + program.static_shared_bytes + align - 1) / align * align;
}

u32 Grid::shared_end() const { return dynamic_shared_offset() + launch.dynamic_shared; }

std::string Grid::line_of(u32 pc) const {
  return pc < program.code.size() ? "ptx:" + std::to_string(program.code[pc].line) : "the end of the kernel";
}

i64 Grid::take_cluster() {
  u32 next = next_cluster_.fetch_add(1);
  if (next < clusters) return next;
  next_cluster_ = clusters;
  return -1;
}

void Grid::publish(u64 address, u32 cluster, const check::Knowledge& knowledge) {
  std::lock_guard lock(mutex_);
  published_[address][cluster].join(knowledge);
}

bool Grid::observe(u64 address, u32 cluster, check::Knowledge& into) {
  std::lock_guard lock(mutex_);
  auto found = published_.find(address);
  if (found == published_.end()) return false;
  for (const auto& [from, knowledge] : found->second) {
    if (from == cluster) into.join(knowledge);
    else into.join_foreign(from, knowledge);
  }
  return true;
}

void Grid::add_trace(std::string line) {
  std::lock_guard lock(mutex_);
  result_.trace.push_back(std::move(line));
}

void Grid::collect(Cluster& cluster) {
  std::lock_guard lock(mutex_);
  for (std::size_t pc = 0; pc < cluster.executed.size(); ++pc) result_.executed[pc] += cluster.executed[pc];
  result_.counters += cluster.counters;
}

// All workers' clusters wait for values in global memory, and have looked at what was written last: nobody is left to
// write.
bool Grid::everyone_waits(u64 seen) {
  auto outdated = [&] { return __atomic_load_n(&version, __ATOMIC_ACQUIRE) != seen || reports.stopped(); };
  {
    std::lock_guard lock(idle_mutex_);
    if (seen < idle_version_) return false;
    if (seen > idle_version_) idle_ = 0;
    idle_version_ = seen;
    ++idle_;
  }
  for (;; std::this_thread::yield()) {
    std::lock_guard lock(idle_mutex_);
    bool same = idle_version_ == seen, all = same && idle_ == running_;
    if (!outdated()) {
      if (all) return true;
      continue;
    }
    if (same) --idle_;
    return false;
  }
}

void Grid::report_grid_deadlock(const std::vector<std::unique_ptr<Cluster>>& active) {
  check::Report report{};
  report.kind = check::Kind::deadlock;
  report.title = "every cluster waits for a value in global memory that nobody will write";
  for (const auto& cluster : active)
    for (std::string& line : cluster->waiting_lines()) report.lines.push_back(std::move(line));
  report.fatal = true;
  reports.add(std::move(report));
}

void Grid::work() {
  constexpr u64 slice = 100'000;  // warp-instructions before the thread looks at its other clusters
  std::vector<std::unique_ptr<Cluster>> active;
  auto start = [&] {
    i64 number = take_cluster();
    if (number >= 0) active.push_back(std::make_unique<Cluster>(*this, static_cast<u32>(number)));
    return number >= 0;
  };
  try {
    for (;;) {
      while (active.size() < std::max(1u, options.resident_clusters) && start()) {}
      if (active.empty()) break;
      u64 seen = __atomic_load_n(&version, __ATOMIC_ACQUIRE);
      bool progress = false;
      for (std::size_t i = 0; i < active.size();) {
        Cluster::Outcome outcome = active[i]->run(slice);
        progress |= outcome != Cluster::Outcome::waiting;
        if (outcome != Cluster::Outcome::finished) {
          ++i;
          continue;
        }
        collect(*active[i]);
        active.erase(active.begin() + static_cast<std::ptrdiff_t>(i));
      }
      if (progress || start()) continue;
      if (everyone_waits(seen)) {
        report_grid_deadlock(active);
        break;
      }
    }
  } catch (const Stopped&) {
  }
  for (auto& cluster : active) collect(*cluster);
  std::lock_guard lock(idle_mutex_);
  --running_;
}

Result Grid::run() {
  const u32 workers = running_ = std::max(1u, std::min(options.threads, clusters));
  std::vector<std::thread> others;
  for (u32 i = 1; i < workers; ++i) others.emplace_back([this] { work(); });
  work();
  for (std::thread& other : others) other.join();
  result_.failed = reports.stopped();
  result_.reports = reports.take();
  for (const check::Report& report : result_.reports) result_.rendered.push_back(reports.render(report));
  count_units(program, result_.executed, result_.counters);
  return std::move(result_);
}

Result run(const Launch& launch, const std::vector<Allocation>& memory, const Options& options) {
  validate(launch);
  const DefaultArithmetic arithmetic;
  return Grid(launch, memory, options).run();
}

}  // namespace sim
