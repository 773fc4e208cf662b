// The moment at which a thread issues an asynchronous operation: who, and what it knew.
#pragma once

#include <memory>

#include "machine/async.h"
#include "machine/cta.h"
#include "machine/grid_state.h"

namespace sim {

struct Issue {
  Warp* warp;
  int lane;
  Origin origin;
  Known known;  // null when races are not checked

  check::Actor actor(check::Agent agent, check::Time time, bool async_proxy = true) const {
    return {agent, time, all_lanes, async_proxy, origin.pc, known.get(), false};
  }
};

// One thread issues. In PTX every active lane would; ptxas makes one instruction of it, so one is performed, and it is
// reported.
inline Issue issue(Warp& warp, const char* what) {
  Issue made{&warp, warp.first_lane(), warp.origin(what), nullptr};
  if (warp.active & (warp.active - 1))
    if (!warp.cluster.grid.reports.seen(check::Kind::unelected, ~0u, warp.pc()))
      warp.cluster.warn(check::Kind::unelected, "a " + std::string(what) + " is issued by more than one lane",
                        "lanes " + hex(warp.active), made.origin,
                        "elect one lane (elect.sync): PTX has every lane issue it");
  if (warp.cluster.history)
    made.known = std::make_shared<const check::Knowledge>(warp.view.known_to(Mask{1} << made.lane));
  return made;
}

}  // namespace sim
