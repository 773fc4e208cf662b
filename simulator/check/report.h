// A finding of a check, as data; one renderer makes the text.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "machine/program.h"

namespace sim::check {

enum class Kind : u8 {
  race,
  deadlock,
  livelock,
  uninitialised,
  out_of_bounds,
  misaligned,
  barrier,       // mbarrier or named barrier misused
  tensor_memory, // not freed, freed early, not allocated
  not_awaited,   // a bulk operation not awaited at exit
  registers,     // setmaxnreg: the pool cannot serve
  unelected,     // a bulk operation issued by more than one lane
  undefined,     // anything else that PTX leaves undefined
};

// One access or event: who did it and where it stands.
struct Site {
  std::string who{};  // "tensor copy issued by warp 12 lane 0", "warp 3 lanes 0-31"
  u32 pc = no_pc;
  static constexpr u32 no_pc = 0xFFFFFFFF;
};

struct Report {
  Kind kind = Kind::undefined;
  std::string title{};  // "shared memory is overwritten while tcgen05.mma may still read it"
  Dim3 cta{0, 0, 0};
  std::string where{};  // "shared 0x8400..0x840f, 16 bytes"
  Site first{}, second{};  // second: the access at which it was found
  std::string first_role = "first", second_role = "second";  // "write", "read", "init", ...
  std::string why{};
  std::vector<std::string> lines{};  // a table, e.g. of all warps of a deadlock
  u64 count = 1;       // places for this pair of statements
  bool fatal = false;  // the launch stops here
};

// Where reports go, from any thread. One report per (kind, first pc, second pc); further ones only count. Beyond the
// limit only fatal ones are kept.
class Reports {
 public:
  Reports(const Program& program, std::string repeat, u32 limit);
  // True if this pair is new. A fatal report also sets stop().
  bool add(Report report);
  // Cheap test and count before a Report is built: true if this pair has been reported already (then it is counted).
  bool seen(Kind kind, u32 first_pc, u32 second_pc);
  bool stopped() const;
  void stop();
  std::vector<Report> take();
  std::string render(const Report& report) const;  // error[race]: ... kernel ... where ... repeat ...

 private:
  const Program& program_;
  std::string repeat_;
  u32 limit_;
  using Pair = std::tuple<Kind, u32, u32>;
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  std::vector<Report> reports_;
  std::map<Pair, std::size_t> index_;  // in reports_, of those that take() has not handed out
};

const char* name(Kind kind);

}  // namespace sim::check
