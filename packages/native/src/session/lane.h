// A lane: one worker thread with its tracer task, its helper in the target, and its slots. All
// calls must come from that one thread.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/page_range.h"
#include "pages/capture_plan.h"
#include "pages/page_scan.h"
#include "pipe/feed.h"
#include "pipe/slot.h"
#include "session/exchange.h"
#include "target/helper_remote.h"
#include "target/target_memory.h"
#include "target/tracer_task.h"

namespace sluice {

enum class CaptureMode { kAuto, kVmsplice, kRead };

struct LaneOptions {
  pid_t pid = 0;
  size_t index = 0;
  CaptureMode mode = CaptureMode::kAuto;
  // Together they are this lane's part of the pinned budget.
  size_t slots = 1;
  // Fewer where each has a buffer of the dumper's own memory behind it.
  size_t read_slots = 1;
  uint64_t slot_bytes = 0;
  // The process that was opened is gone, so that its pid may be another's.
  std::function<bool()> ended = [] { return false; };
};

struct LaneAttached {
  bool with_helper = false;
  std::string fallback_reason;
  double stopped_us = 0;
};

class Lane {
 public:
  explicit Lane(const LaneOptions& options) : options_(options) {}

  // Starts the helper and makes the slots. With kAuto falls back to reading from outside. Throws
  // CAPTURE_UNAVAILABLE (kVmsplice), TARGET_EXITED, PERMISSION.
  LaneAttached attach();
  // Waits at the gate, then feeds the lane's share of the plan that control has made by then.
  // Throws CANCELLED, TARGET_EXITED, SYSTEM.
  void capture(const CapturePlan& plan, PageRange share, Exchange* exchange);
  // Ends the helper; what remains of it is for control to remove.
  void detach();

  const std::vector<HelperRemains>& remains() const { return remains_; }
  // 0 without a helper.
  uint64_t scratch() const { return helper_ ? helper_->scratch().value() : 0; }
  const std::vector<PageRange>& left_out() const { return left_out_; }
  uint64_t pages_captured() const { return pages_captured_.load(std::memory_order_relaxed); }

 private:
  void start_helper(LaneAttached* attached);
  void make_slots();
  void feed_share(const CapturePlan& plan, PageRange share, Exchange* exchange);

  LaneOptions options_;
  std::unique_ptr<TracerTask> tracer_;
  std::unique_ptr<TargetMemory> memory_;
  std::unique_ptr<Helper> helper_;
  std::unique_ptr<PageScan> scan_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<HelperRemains> remains_;
  std::vector<PageRange> left_out_;
  std::atomic<uint64_t> pages_captured_{0};
};

}  // namespace sluice
