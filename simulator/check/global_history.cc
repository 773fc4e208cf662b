// The last accesses to global memory, of all clusters of a launch.
#include "check/global_history.h"

#include <algorithm>
#include <thread>

namespace sim::check {

namespace {

bool unite(Entry& old, const Access& access) {
  if (!old.same_epoch(access)) return false;
  const u32 bytes = old.bytes();
  old.lanes |= access.lanes;
  old.site = access.site;
  old.set_bytes(bytes | access.bytes());
  return true;
}

void remove_bytes(Entry& old, const Access& access) {
  if (!old.time) return;
  trim(old, access);
  if (!old.bytes()) old = {};
}

}  // namespace

bool GlobalCell::access(const Access& access, Entry& conflict) {
  for (const Entry* earlier : {&write, &reads[0], &reads[1]}) {
    if (!earlier->time || !conflicts(*earlier, access)) continue;
    conflict = *earlier;
    *this = {};
    return false;
  }
  if (access.write) {
    for (Entry& read : reads) remove_bytes(read, access);
    if (!unite(write, access)) write = access;
    return true;
  }
  for (Entry& read : reads)
    if (unite(read, access)) return true;
  for (Entry& read : reads) remove_bytes(read, access);
  if (reads[0].time) {
    if (reads[1].time) reads[0] = reads[1];
    reads[1] = access;
  } else {
    reads[0] = access;
  }
  return true;
}

// Held for a few cells; a mutex's sleep would cost more.
GlobalPage::Lock::Lock(std::atomic_flag& flag) : flag_(flag) {
  while (flag_.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
}

GlobalCell* GlobalPage::split(u32 line) {
  if (!split_[line]) {
    auto parts = std::make_unique<GlobalCell[]>(4);
    std::fill_n(parts.get(), 4, lines_[line]);
    parts_.push_back(std::move(parts));
    split_[line] = static_cast<u16>(parts_.size());
  }
  return parts_[split_[line] - 1u].get();
}

GlobalPage& GlobalHistory::page(u64 number) {
  Stripe& stripe = stripes_[number % stripes];
  const std::lock_guard lock(stripe.mutex);
  std::unique_ptr<GlobalPage>& page = stripe.pages[number];
  if (!page) page = std::make_unique<GlobalPage>();
  return *page;
}

void GlobalHistory::enter(u32 cluster, std::shared_ptr<const Agents> agents) {
  const std::lock_guard lock(mutex_);
  agents_[cluster] = std::move(agents);
}

std::shared_ptr<const Agents> GlobalHistory::agents(u32 cluster) const {
  const std::lock_guard lock(mutex_);
  return agents_.at(cluster);
}

std::shared_ptr<GlobalHistory> make_global_history() { return std::make_shared<GlobalHistory>(); }

}  // namespace sim::check
