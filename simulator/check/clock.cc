// Vector clocks and what a warp's lanes know.
#include "check/clock.h"

#include <algorithm>

namespace sim::check {

void Clock::widen(std::size_t entries) {
  if (all_.size() < entries) all_.resize((entries + block - 1) / block * block);
}

Mask Clock::lanes_known(Agent agent, Time time) const {
  if (time <= known(agent)) return all_lanes;
  Mask lanes = asking_.agent == agent && asking_.time >= time ? asking_.lanes : 0;
  for (const Partial& partial : partials_)
    if (partial.agent == agent && partial.time >= time) lanes |= partial.lanes;
  return lanes;
}

bool Clock::includes(const Clock& other) const {
  for (Agent agent = 0; agent < other.all_.size(); ++agent)
    if (other.all_[agent] > known(agent)) return false;
  return std::all_of(other.partials_.begin(), other.partials_.end(),
                     [&](const Partial& partial) { return covers(partial.agent, partial.lanes, partial.time); });
}

void Clock::learn(Agent agent, Time time) {
  if (time <= known(agent)) return;
  widen(agent + std::size_t{1});
  all_[agent] = time;
  std::erase_if(partials_, [&](const Partial& old) { return old.agent == agent && old.time <= time; });
}

void Clock::learn(Agent agent, Mask lanes, Time time) {
  if (lanes == all_lanes) return learn(agent, time);
  if (lanes == 0 || time <= known(agent)) return;
  for (const Partial& old : partials_)
    if (old.agent == agent && (lanes & ~old.lanes) == 0 && old.time >= time) return;
  std::erase_if(partials_, [&](const Partial& old) {
    return old.agent == agent && (old.lanes & ~lanes) == 0 && old.time <= time;
  });
  partials_.push_back({agent, lanes, time});
}

void Clock::join(const Clock& other) {
  if (this == &other) return;
  widen(other.all_.size());
  Time* __restrict mine = all_.data();
  const Time* __restrict theirs = other.all_.data();
  for (std::size_t first = 0; first < other.all_.size(); first += block)
    for (std::size_t i = first; i < first + block; ++i) mine[i] = std::max(mine[i], theirs[i]);
  if (!partials_.empty())
    std::erase_if(partials_, [&](const Partial& old) { return old.time <= known(old.agent); });
  for (const Partial& partial : other.partials_) learn(partial.agent, partial.lanes, partial.time);
}

// Each knows of an agent some lanes up to some time; common are every pair's common lanes up to the earlier time.
void Clock::keep_common(const Clock& other) {
  Clock common;
  common.widen(std::min(all_.size(), other.all_.size()));
  for (Agent agent = 0; agent < common.all_.size(); ++agent)
    common.all_[agent] = std::min(all_[agent], other.all_[agent]);
  for (const Partial& mine : partials_) {
    common.learn(mine.agent, mine.lanes, std::min(mine.time, other.known(mine.agent)));
    for (const Partial& theirs : other.partials_)
      if (mine.agent == theirs.agent)
        common.learn(mine.agent, mine.lanes & theirs.lanes, std::min(mine.time, theirs.time));
  }
  for (const Partial& theirs : other.partials_)
    common.learn(theirs.agent, theirs.lanes, std::min(theirs.time, known(theirs.agent)));
  *this = std::move(common);
}

namespace {

using Foreign = Knowledge::Foreign;

// Most joins bring nothing new; then the shared entry stays as it is.
void join_entry(std::shared_ptr<const Knowledge>& entry, const std::shared_ptr<const Knowledge>& other) {
  if (entry == other) return;
  if (!entry) {
    entry = other;
  } else if (!entry->includes(*other)) {
    auto joined = std::make_shared<Knowledge>(*entry);
    joined->join(*other);
    entry = std::move(joined);
  }
}

}  // namespace

void Knowledge::join(const Knowledge& other) {
  generic.join(other.generic);
  fenced.join(other.fenced);
  if (!other.foreign || foreign == other.foreign) return;
  if (!foreign) {
    foreign = other.foreign;
    return;
  }
  auto joined = std::make_shared<Foreign>(*foreign);
  for (const auto& [cluster, known] : *other.foreign) join_entry((*joined)[cluster], known);
  foreign = std::move(joined);
}

void Knowledge::join_foreign(u32 cluster, const Knowledge& other) {
  auto local = std::make_shared<Knowledge>(other);
  local->foreign = nullptr;
  auto joined = foreign ? std::make_shared<Foreign>(*foreign) : std::make_shared<Foreign>();
  join_entry((*joined)[cluster], local);
  if (other.foreign)
    for (const auto& [further, known] : *other.foreign) join_entry((*joined)[further], known);
  foreign = std::move(joined);
}

void Knowledge::keep_common(const Knowledge& other) {
  generic.keep_common(other.generic);
  fenced.keep_common(other.fenced);
  if (foreign == other.foreign) return;
  auto common = std::make_shared<Foreign>();
  if (foreign && other.foreign)
    for (const auto& [cluster, known] : *foreign) {
      const Knowledge* theirs = other.of_cluster(cluster);
      if (!theirs) continue;
      auto both = std::make_shared<Knowledge>(*known);
      both->keep_common(*theirs);
      (*common)[cluster] = std::move(both);
    }
  foreign = common->empty() ? nullptr : std::move(common);
}

bool Knowledge::includes(const Knowledge& other) const {
  if (!generic.includes(other.generic) || !fenced.includes(other.fenced)) return false;
  if (!other.foreign || foreign == other.foreign) return true;
  return std::all_of(other.foreign->begin(), other.foreign->end(), [&](const auto& entry) {
    const Knowledge* mine = of_cluster(entry.first);
    return mine && mine->includes(*entry.second);
  });
}

void Knowledge::fence() {
  fenced.join(generic);
  if (!foreign) return;
  std::shared_ptr<Foreign> changed;
  for (const auto& [cluster, known] : *foreign) {
    if (known->fenced.includes(known->generic)) continue;
    if (!changed) changed = std::make_shared<Foreign>(*foreign);
    auto fenced_copy = std::make_shared<Knowledge>(*known);
    fenced_copy->fence();
    (*changed)[cluster] = std::move(fenced_copy);
  }
  if (changed) foreign = std::move(changed);
}

const Knowledge* Knowledge::of_cluster(u32 cluster) const {
  if (!foreign) return nullptr;
  const auto found = foreign->find(cluster);
  return found == foreign->end() ? nullptr : found->second.get();
}

WarpView::WarpView(Agent agent, Mask existing_lanes) : agent_(agent), existing_(existing_lanes) {}

// What known_to() noted for the lanes that asked must not become known to others.
void WarpView::forget_asking() const {
  base_.generic.asking_ = base_.fenced.asking_ = {};
  for (LaneSet& set : sets_) set.known.generic.asking_ = set.known.fenced.asking_ = {};
}

// What every one of these lanes knows.
Knowledge& WarpView::gather(Mask lanes) const {
  Mask others = lanes & existing_;
  Knowledge* first = nullptr;
  bool several = false;
  const auto add = [&](Knowledge& known) {
    if (!first) {
      first = &known;
      return;
    }
    if (!several) scratch_ = *first;
    several = true;
    scratch_.keep_common(known);
  };
  for (LaneSet& set : sets_) {
    if (!(set.lanes & others)) continue;
    add(set.known);
    others &= ~set.lanes;
  }
  return others || !first ? base_ : several ? scratch_ : *first;  // every set includes base_
}

const Knowledge& WarpView::known_to(Mask lanes) const {
  Knowledge* known = &gather(lanes);
  known->generic.asking_ = {agent_, whole(lanes), now_};
  known->fenced.asking_ = {};
  for (const Fence& fence : fences_) {
    if (!(fence.lanes & lanes)) continue;
    if ((lanes & ~fence.lanes) == 0) {
      known->fenced.asking_ = {agent_, whole(lanes), fence.time};
      break;
    }
    if (known != &scratch_) {
      scratch_ = *known;
      known = &scratch_;
    }
    known->fenced.learn(agent_, whole(fence.lanes & lanes), fence.time);
  }
  return *known;
}

// Changes what these lanes know; those of a set that knew the same before part with it.
template <class Change>
void WarpView::change(Mask lanes, Change&& change) {
  forget_asking();
  if (whole(lanes) == all_lanes) {
    change(base_);
    for (LaneSet& set : sets_) change(set.known);
    return;
  }
  for (std::size_t i = 0, before = sets_.size(); i < before; ++i) {
    const Mask part = sets_[i].lanes & lanes;
    lanes &= ~part;
    if (part == sets_[i].lanes) {
      change(sets_[i].known);
    } else if (part) {
      sets_[i].lanes &= ~part;
      LaneSet parted{part, sets_[i].known};
      change(parted.known);
      sets_.push_back(std::move(parted));
    }
  }
  if (lanes) change(sets_.emplace_back(LaneSet{lanes, base_}).known);
  raise_base();
}

// Lanes that left a loop one after the other have all acquired the same in the end.
void WarpView::raise_base() {
  Mask without = existing_;
  for (const LaneSet& set : sets_) without &= ~set.lanes;
  if (without) return;
  base_ = gather(existing_);
  std::erase_if(sets_, [&](const LaneSet& set) { return base_.includes(set.known); });
}

void WarpView::acquire(Mask lanes, const Knowledge& from) {
  change(lanes, [&](Knowledge& known) { known.join(from); });
}

void WarpView::learn(Agent agent, Time time, Mask lanes) {
  change(lanes, [&](Knowledge& known) {
    known.generic.learn(agent, time);
    known.fenced.learn(agent, time);
  });
}

void WarpView::pass_fences(Mask lanes, Knowledge& to) const {
  for (const Fence& fence : fences_) to.fenced.learn(agent_, whole(fence.lanes & lanes), fence.time);
}

// Each lane passes on what it knows itself; who acquires that knows the union.
Knowledge WarpView::release(Mask lanes) {
  forget_asking();
  const auto holds = [&](const LaneSet& set) { return (set.lanes & lanes) != 0; };
  auto set = std::find_if(sets_.begin(), sets_.end(), holds);
  Knowledge released = set == sets_.end() ? base_ : set->known;
  while (set != sets_.end() && (set = std::find_if(set + 1, sets_.end(), holds)) != sets_.end())
    released.join(set->known);
  released.generic.learn(agent_, whole(lanes), now_);
  pass_fences(lanes, released);
  ++now_;
  return released;
}

void WarpView::meet(Mask lanes) {
  forget_asking();
  const bool everyone = whole(lanes) == all_lanes;
  Knowledge some;
  if (!everyone) some = base_;
  Knowledge& met = everyone ? base_ : some;
  for (LaneSet& set : sets_) {
    if (set.lanes & lanes) met.join(set.known);
    set.lanes &= existing_ & ~lanes;
  }
  met.generic.learn(agent_, whole(lanes), now_);
  pass_fences(lanes, met);
  std::erase_if(sets_, [](const LaneSet& set) { return set.lanes == 0; });
  if (everyone)
    fences_.clear();
  else
    sets_.push_back({lanes, std::move(some)});
  ++now_;
}

void WarpView::fence_async(Mask lanes) {
  change(lanes, [](Knowledge& known) { known.fence(); });
  for (Fence& old : fences_) old.lanes &= ~lanes;
  std::erase_if(fences_, [](const Fence& old) { return old.lanes == 0; });
  fences_.push_back({lanes, now_});
  ++now_;
}

}  // namespace sim::check
