// A warp: executing fragments, divergence and convergence.
#include "machine/warp.h"

#include <algorithm>

#include "isa/row.h"
#include "machine/grid_state.h"

namespace sim {

namespace {

u64 watched_value(const Waiting& waiting) { return __atomic_load_n(waiting.watched, __ATOMIC_ACQUIRE); }
bool ready(const Fragment& fragment) {
  return fragment.waiting.on == Waiting::On::nothing || watched_value(fragment.waiting) != fragment.waiting.seen;
}

}  // namespace

Warp::Warp(Cta& cta_, u32 index_, u32 threads_)
    : cta(cta_),
      cluster(cta_.cluster),
      index(index_),
      threads(threads_),
      existing(threads_ == 32 ? all_lanes : (Mask{1} << threads_) - 1),
      view(cluster.history ? cluster.history->agent(check::AgentKind::warp, cta_.rank, index_) : index_, existing),
      live_(existing) {
  const Program& program = cluster.grid.program;
  std::size_t bytes = program.register_bytes + 64;
  registers_storage_.reset(static_cast<u8*>(std::calloc(bytes, 1)));
  auto start = reinterpret_cast<std::uintptr_t>(registers_storage_.get());
  registers_ = registers_storage_.get() + ((64 - start % 64) % 64);
  bases_[0] = registers_;
  bases_[1] = program.constants.data();
  fragments_.push_back({0, existing, {}, 0});
  fill_special_registers();
  const Options& options = cluster.grid.options;
  traced_ = options.trace_cluster == i64{cluster.number} && options.trace_cta == i64{cta.rank} &&
            options.trace_warp == i64{index};
}

u64 Warp::value(const Operand& operand, int lane) const {
  switch (operand.bytes) {
    case 2: return in<u16>(operand)[lane];
    case 4: return in<u32>(operand)[lane];
    case 8: return in<u64>(operand)[lane];
    default: return predicate(operand) >> lane & 1;
  }
}

std::string Warp::name() const { return "warp " + std::to_string(index); }

Origin Warp::origin(const char* what) const { return {cta.id, index, active, pc(), what}; }

bool Warp::gathered(Mask wanted) { return (wanted & live_ & ~active) == 0; }

Step Warp::wait(Waiting::On on, const u64& watched, u32 object, u32 detail) {
  fragment().waiting = {on, &watched, __atomic_load_n(&watched, __ATOMIC_ACQUIRE), object, detail};
  return Step::wait();
}

bool Warp::ready() const { return std::ranges::any_of(fragments_, [](const Fragment& f) { return sim::ready(f); }); }

void Warp::meet() {
  for (std::size_t i = 0; i < fragments_.size(); ++i)
    for (std::size_t j = fragments_.size() - 1; j > i; --j) {
      Fragment &a = fragments_[i], &b = fragments_[j];
      if (a.pc != b.pc || a.ticket || b.ticket) continue;
      a.lanes |= b.lanes;
      a.waiting = {};
      fragments_.erase(fragments_.begin() + static_cast<std::ptrdiff_t>(j));
      ++shape_version_;
    }
}

// Of the fragments that can go on, the one of lowest pc: it is the one that the others will meet soonest.
bool Warp::select() {
  meet();
  const Fragment* best = nullptr;
  for (const Fragment& fragment : fragments_)
    if (sim::ready(fragment) && (!best || fragment.pc < best->pc)) best = &fragment;
  if (!best) return false;
  current_ = static_cast<u32>(best - fragments_.data());
  stop_pc_ = ~0u;
  for (const Fragment& fragment : fragments_)
    if (fragment.pc > best->pc) stop_pc_ = std::min(stop_pc_, fragment.pc);
  fragments_[current_].waiting = {};
  return true;
}

void Warp::jump(const Inst& inst) {
  u32 target = static_cast<u32>(inst.op[0].offset);
  Fragment& here = fragment();
  if (active == here.lanes) {
    here.pc = target;
    return;
  }
  here.lanes &= ~active;
  ++here.pc;
  fragments_.push_back({target, active, {}, 0});
  stop_pc_ = 0;  // look again
}

void Warp::leave(Mask lanes) {
  live_ &= ~lanes;
  Fragment& here = fragment();
  const u32 at = here.pc;
  here.lanes &= ~lanes;
  if (here.lanes) ++here.pc;
  else fragments_.erase(fragments_.begin() + current_);
  stop_pc_ = 0;
  ++shape_version_;
  cluster.left(*this, at);
}

void Warp::settle(const Inst& inst) {
  bool asynchronous = table()[inst.row].writes_later;
  if (!asynchronous) products_fenced = false;
  if (loads.empty() && products.empty()) return;
  const std::vector<u32>& pcs = cluster.grid.program.awaited[inst.awaits];
  auto touched = [&](const Outstanding& outstanding) { return std::ranges::find(pcs, outstanding.pc) != pcs.end(); };
  // The hardware holds an instruction back until the loads it depends on have arrived, and loads arrive in order.
  for (std::size_t i = loads.size(); i-- > 0;) {
    if (!touched(loads[i])) continue;
    view.learn(load_agent, loads[i].time, live_);
    loads.erase(loads.begin(), loads.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    break;
  }
  if (asynchronous) return;
  for (const Outstanding& product : products)
    if (touched(product))
      return cluster.warn(check::Kind::race, "a register of wgmma.mma_async is used before wgmma.wait_group",
                          "registers", origin(), "the product was issued at " + cluster.grid.line_of(product.pc));
}

u64 Warp::run(u64 budget) {
  const Program& program = cluster.grid.program;
  const Inst* code = program.code.data();
  const u32 size = static_cast<u32>(program.code.size());
  u64* counts = cluster.executed.data();
  u64 done = 0;
  stop_pc_ = 0;
  while (done < budget) {
    if (fragments_.empty()) break;
    if (stop_pc_ == 0 || fragment().pc >= stop_pc_)
      if (!select()) break;
    Fragment& here = fragments_[current_];
    if (here.pc >= size) {
      active = here.lanes;
      leave(active);
      continue;
    }
    const Inst& inst = code[here.pc];
    Mask lanes = here.lanes;
    if (inst.guard != Inst::no_guard) {
      Mask guard = *reinterpret_cast<const Mask*>(registers_ + inst.guard);
      lanes &= inst.guard_negate ? ~guard : guard;
      if (!lanes) {
        ++here.pc;
        continue;
      }
    }
    active = lanes;
    ++done;
    ++counts[here.pc];
    if (inst.awaits) settle(inst);
    if (traced_) trace(inst);
    switch (inst.execute(*this, inst).kind) {
      case Step::kNext: ++fragments_[current_].pc; break;
      case Step::kJump: jump(inst); break;
      case Step::kWait:
        --counts[here.pc];
        stop_pc_ = 0;
        break;
      case Step::kExit: leave(active); break;
    }
  }
  meet();  // what came last to where the others wait must not be taken for one more that waits
  executed += done;
  return done;
}

void Warp::trace(const Inst& inst) {
  const Program& program = cluster.grid.program;
  const Source& source = program.sources[inst.source];
  std::string line = "ptx:" + std::to_string(inst.line) + "  lanes " + hex(active) + "  " + program.text[pc()];
  if (source.line) line += "  " + source.file + ":" + std::to_string(source.line);
  cluster.grid.add_trace(std::move(line));
}

void Warp::fill_special_registers() {
  const Launch& launch = cluster.grid.launch;
  const Program& program = cluster.grid.program;
  const Dim3 &block = launch.block, &grid = launch.grid, &shape = launch.cluster;
  u32 in_cluster[3] = {cta.id.x % shape.x, cta.id.y % shape.y, cta.id.z % shape.z};
  for (const Filled& filled : program.filled) {
    for (u32 lane = 0; lane < warp_size; ++lane) {
      u32 thread = index * warp_size + lane;
      auto constant = [&]() -> u32 {
        switch (filled.what) {
          case Special::tid_x: return thread % block.x;
          case Special::tid_y: return thread / block.x % block.y;
          case Special::tid_z: return thread / (block.x * block.y);
          case Special::ntid_x: return block.x;
          case Special::ntid_y: return block.y;
          case Special::ntid_z: return block.z;
          case Special::ctaid_x: return cta.id.x;
          case Special::ctaid_y: return cta.id.y;
          case Special::ctaid_z: return cta.id.z;
          case Special::nctaid_x: return grid.x;
          case Special::nctaid_y: return grid.y;
          case Special::nctaid_z: return grid.z;
          case Special::laneid: return lane;
          case Special::warpid: return index;
          case Special::nwarpid: return (static_cast<u32>(block.volume()) + 31) / 32;
          case Special::clusterid_x: return cta.id.x / shape.x;
          case Special::clusterid_y: return cta.id.y / shape.y;
          case Special::clusterid_z: return cta.id.z / shape.z;
          case Special::nclusterid_x: return grid.x / shape.x;
          case Special::nclusterid_y: return grid.y / shape.y;
          case Special::nclusterid_z: return grid.z / shape.z;
          case Special::cluster_ctaid_x: return in_cluster[0];
          case Special::cluster_ctaid_y: return in_cluster[1];
          case Special::cluster_ctaid_z: return in_cluster[2];
          case Special::cluster_nctaid_x: return shape.x;
          case Special::cluster_nctaid_y: return shape.y;
          case Special::cluster_nctaid_z: return shape.z;
          case Special::cluster_ctarank: return cta.rank;
          case Special::cluster_nctarank: return cluster.grid.cluster_ctas;
          case Special::lanemask_eq: return 1u << lane;
          case Special::lanemask_lt: return (1u << lane) - 1;
          case Special::lanemask_le: return (2u << lane) - 1;
          case Special::lanemask_gt: return ~((2u << lane) - 1);
          case Special::lanemask_ge: return ~((1u << lane) - 1);
          case Special::smid: return cluster.number * cluster.grid.cluster_ctas + cta.rank;
          case Special::nsmid: return launch.device.multiprocessors;
          case Special::static_shared: return cta.shared_address(launch.device.reserved_shared);
          case Special::dynamic_shared: return cta.shared_address(cluster.grid.dynamic_shared_offset());
        }
        return 0;
      };
      u64 value = u64{constant()} + filled.addend;
      u8* place = registers_ + filled.slot + lane * filled.bytes;
      std::memcpy(place, &value, filled.bytes);
    }
  }
}

}  // namespace sim
