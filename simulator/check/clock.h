// Vector clocks: who is known to have happened before whom (FastTrack, PLDI 2009), lane-precise.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "base.h"

namespace sim::check {

// A thread of execution whose accesses are ordered among themselves: a warp, or an asynchronous pipe (tensor copies per
// mbarrier, bulk stores per warp, wgmma per warp, tcgen05 per CTA pair, tcgen05.ld / .st per warp). Numbered densely
// within a cluster.
using Agent = u32;
using Time = u32;  // an agent's own time; 0 is "never", the first access happens at 1

// Time per agent. An elected lane's release passes on its own lane's accesses only: then the agent's entry holds for a
// lane mask.
class Clock {
 public:
  struct Partial {
    Agent agent = 0;
    Mask lanes = 0;
    Time time = 0;
  };

  // All those lanes' accesses up to `time` are known.
  bool covers(Agent agent, Mask lanes, Time time) const {
    return time <= known(agent) || (lanes & ~lanes_known(agent, time)) == 0;
  }
  Time known(Agent agent) const { return agent < all_.size() ? all_[agent] : 0; }  // of all its lanes
  Mask lanes_known(Agent agent, Time time) const;                                  // up to that time
  bool includes(const Clock& other) const;

  void learn(Agent agent, Time time);  // of all lanes
  void learn(Agent agent, Mask lanes, Time time);
  void join(const Clock& other);
  void keep_common(const Clock& other);  // what both know

  // In what WarpView::known_to returns: the lanes that asked, who know their own accesses. Else time 0. Not joined into
  // other clocks: the warp's time does not advance when it is asked, so its next accesses would seem to be known too.
  const Partial& asking() const { return asking_; }

 private:
  friend class WarpView;
  // Entries joined at a time, so that the loop has a constant length and is vectorised.
  static constexpr std::size_t block = 8;
  void widen(std::size_t entries);

  std::vector<Time> all_;          // indexed by agent, a multiple of `block` of them; missing entries are 0
  std::vector<Partial> partials_;  // each beyond all_[agent], none implied by another
  Partial asking_;
};

// What is known at some point of execution: which accesses happened before, and which of them an async-proxy access may
// rely on, because a fence.proxy.async stood on the way. Accesses of other clusters are known by cluster.
struct Knowledge {
  Clock generic;  // every access
  Clock fenced;   // those that a proxy fence has made visible to the async proxy
  using Foreign = std::map<u32, std::shared_ptr<const Knowledge>>;
  // By cluster number; null: none. Shared between copies, so it is replaced, never changed.
  std::shared_ptr<const Foreign> foreign;
  void join(const Knowledge& other);
  void join_foreign(u32 cluster, const Knowledge& other);
  void keep_common(const Knowledge& other);
  bool includes(const Knowledge& other) const;
  void fence();                                   // fenced := all that is known, of other clusters too
  const Knowledge* of_cluster(u32 cluster) const;  // null: nothing
};

// The knowledge of one warp, lane-precise in both directions: what an elected lane acquired is known to the others only
// after they meet (bar.warp.sync, bar.sync, ...), and it passes on its own lane's accesses only, or those before the
// last meeting.
class WarpView {
 public:
  WarpView(Agent agent, Mask existing_lanes);
  Agent agent() const { return agent_; }
  Time now() const { return now_; }             // time of the accesses made at this moment
  void acquire(Mask lanes, const Knowledge& from);
  Knowledge release(Mask lanes);                // what any of these lanes passes on; the agent's time advances
  void meet(Mask lanes);                        // bar.warp.sync: these lanes know what any of them knew
  void fence_async(Mask lanes);                 // fence.proxy.async
  // What each of these lanes knows, its own accesses included. Valid until the next call but agent() and now(); cheap
  // when no lane knows more than another. A copy stays valid; joined into something else it passes on all but the
  // lanes' own last accesses.
  const Knowledge& known_to(Mask lanes) const;
  void learn(Agent agent, Time time, Mask lanes);  // completion of an asynchronous pipe's work up to `time`

 private:
  struct LaneSet {
    Mask lanes;
    Knowledge known;  // base_ included
  };
  struct Fence {
    Mask lanes;
    Time time;
  };
  Mask whole(Mask lanes) const { return (existing_ & ~lanes) == 0 ? all_lanes : lanes; }
  Knowledge& gather(Mask lanes) const;
  template <class Change>
  void change(Mask lanes, Change&& change);
  void raise_base();
  void forget_asking() const;
  void pass_fences(Mask lanes, Knowledge& to) const;

  Agent agent_;
  Mask existing_;
  Time now_ = 1;
  mutable Knowledge base_;              // known to all lanes; mutable for Clock::asking_ alone
  mutable std::vector<LaneSet> sets_;   // what some lanes know beyond it; no lane twice
  mutable Knowledge scratch_;
  std::vector<Fence> fences_;           // the lanes' own last fences since they met; no lane twice
};

}  // namespace sim::check
