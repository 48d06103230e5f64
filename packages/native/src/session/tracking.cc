// The tracker of a DumpSession: which one, and what it needs a freeze for.
#include <time.h>

#include <array>
#include <utility>

#include "base/error.h"
#include "kernel/probes.h"
#include "kernel/urgent.h"
#include "session/dump_session.h"

namespace sluice {

std::unique_ptr<Tracker> DumpSession::make_tracker(TrackerMode mode) {
  if (mode == TrackerMode::kUffdWp) {
    return make_uffd_tracker(options_.pid, lanes_.front()->make_userfaultfd());
  }
  if (mode == TrackerMode::kNone) {
    return make_full_tracker(options_.pid);
  }
  // A kernel without the bits takes their reset, and then shows every page as not written.
  if (const Probe probe = probe_soft_dirty(); !probe.ok) {
    throw Error("TRACKER_UNAVAILABLE", options_.pid, "", 0,
                "the kernel has no soft-dirty bits: " + probe.detail);
  }
  return make_soft_dirty_tracker(options_.pid, options_.known);
}

TrackerAttached DumpSession::lane_track() {
  const bool any = options_.tracker == TrackerMode::kAuto;
  TrackerAttached attached;
  // The best first. Soft-dirty bits need a freeze in each round, and others may be using them:
  // those, for one, who go on from here.
  std::array by_merit = {TrackerMode::kUffdWp, TrackerMode::kSoftDirty, TrackerMode::kNone};
  if (options_.hand_over) {
    std::swap(by_merit[0], by_merit[1]);
  }
  for (const TrackerMode mode : by_merit) {
    if (tracker_ || !(any || mode == options_.tracker)) {
      continue;
    }
    try {
      tracker_ = make_tracker(mode);
    } catch (const Error& error) {
      if (!any) {
        throw Error("TRACKER_UNAVAILABLE", options_.pid, error.call().c_str(), error.err(),
                    error.detail());
      }
      attached.reason += (attached.reason.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  for (const auto& lane : lanes_) {
    lane->set_tracker(tracker_->scan());
  }
  moving_pages_matter_ = probe_direct_io(options_.dir).needs_stable_pages;
  attached.mode = tracker_->mode();
  return attached;
}

void DumpSession::reset_frozen(Round* round) {
  RoundResult* const result = &round->result;
  const auto freeze = freeze_target(&round->exchange);
  const Urgent urgent(true);
  require_same_program();
  const auto start = Clock::now();
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  result->reset_uptime_us =
      static_cast<uint64_t>(now.tv_sec) * 1'000'000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
  round->reset = tracker_->reset();
  result->scan_us = microseconds_since(start);
  freeze->thaw();
  limit_.clear();
  frozen_.store(false, std::memory_order_relaxed);
  result->freezing_us = freeze->freezing_us();
  result->frozen_us = freeze->frozen_us();
}

}  // namespace sluice
