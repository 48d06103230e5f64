// A lane: one worker thread with its tracer task, its helper in the target, and its slots. All
// calls must come from that one thread.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/page_range.h"
#include "pages/capture_plan.h"
#include "pages/page_scan.h"
#include "pipe/chunker.h"
#include "pipe/feed.h"
#include "pipe/slot.h"
#include "session/exchange.h"
#include "session/twinning.h"
#include "target/helper_remote.h"
#include "target/helper_state_remote.h"
#include "target/target_handle.h"
#include "target/target_memory.h"
#include "target/tracer_task.h"
#include "track/tracker.h"

namespace sluice {

enum class CaptureMode { kAuto, kVmsplice, kRead };

struct LaneOptions {
  pid_t pid = 0;
  size_t index = 0;
  CaptureMode mode = CaptureMode::kAuto;
  // Together they are this lane's part of the pinned budget.
  size_t slots = 1;
  // As many where each has a buffer of the dumper's own memory behind it: in rounds whose end waits
  // for the drains, more would not make it faster.
  size_t read_slots = 1;
  // Start a helper in any case: it is needed for the tracker.
  bool wants_helper = false;
  // Asks under freeze where the heap ends, to the byte. A core has no place for it.
  bool wants_program_break = false;
  uint64_t slot_bytes = 0;
  // For which a thread of the target may be stopped; 0 for no limit.
  uint64_t freeze_limit_ms = 0;
  const TargetHandle* target = nullptr;
};

struct LaneAttached {
  bool with_helper = false;
  std::string fallback_reason;
  double stopped_us = 0;
};

enum class RoundKind {
  // All pages, under freeze.
  kWhole,
  // Pages written since they were collected, while the target runs.
  kLive,
  // What the rounds before left, under freeze.
  kFinal,
};

// What all lanes need to know of a round. Control makes it before it opens the gate.
struct RoundWork {
  RoundKind kind = RoundKind::kWhole;
  CapturePlan plan;
  // To be taken although they may not have been written since they were collected.
  PageRanges owed;
  // Pages are copied while they are captured, so that the target can go on when the lanes are done.
  bool copy = false;
  // Of one lane, as far as can be foreseen: room for them is made before the freeze.
  uint64_t copy_bytes = 0;
  // With `copy`, of a round that may make a twin.
  Twinning* twinning = nullptr;
  // To be copied under freeze in any case: the kernel writes there past page tables.
  PageRanges pinned;
};

// What became of the pages of a lane's share.
struct LaneRound {
  PageRanges collected;  // reset by the tracker
  PageRanges owed;       // reset perhaps, and not captured
  PageRanges left_out;   // that nothing could read
  // Under freeze:
  PageRanges looked;  // what a tracker watches
  Look look;
  double scan_us = 0;
  // What brk(2) set; 0 but for the first lane, and without a helper.
  uint64_t program_break = 0;
};

class Lane {
 public:
  explicit Lane(const LaneOptions& options) : options_(options) {}

  // Starts the helper and makes the slots. With kAuto falls back to reading from outside. Throws
  // CAPTURE_UNAVAILABLE (kVmsplice), TARGET_EXITED, PERMISSION.
  LaneAttached attach();
  // Of a lane with a helper. Throws INJECTION.
  ScopedFd make_userfaultfd();
  // What to scan rounds with; before the first of them.
  void set_tracker(std::unique_ptr<TrackerScan> scan) { tracker_scan_ = std::move(scan); }
  // The slots that a round uses, of rounds that follow each other at once: each has its own part,
  // so that none need wait for the drains. In all but the last, pages are copied, and capture comes
  // back as soon as that is done.
  struct Slots {
    size_t part = 0;
    size_t parts = 1;
    bool last() const { return part + 1 == parts; }
  };
  // Makes the memory exist that a round will copy to.
  void make_room(const RoundWork& work, Slots slots);
  // Waits at the gate, then feeds the lane's share of the work that control has made by then.
  // What became of it is noted in `round` all the time, in any order. Throws CANCELLED,
  // TARGET_EXITED, SYSTEM.
  void capture(const RoundWork& work, const PageRange& share, Slots slots, Exchange* exchange,
               LaneRound* round);
  // Ends the helper; what remains of it is for control to remove.
  void detach();
  // Any thread: what the lane is at then is ended, whatever it waits for.
  void end_work_at(Deadline at) { limit_.set_for_work(at); }

  const std::vector<HelperRemains>& remains() const { return remains_; }
  // A start of a helper was cut off by the limit: there may be more remains.
  bool was_cut_off() const { return cut_off_; }
  bool has_helper() const { return helper_ != nullptr; }
  // Of the target, when the helper of the first lane was started; nullopt without one.
  const std::optional<std::vector<SignalAction>>& signal_actions() const { return signal_actions_; }
  // 0 without a helper.
  uint64_t scratch() const { return helper_ ? helper_->scratch().value() : 0; }
  uint64_t pages_captured() const { return pages_captured_.load(std::memory_order_relaxed); }

 private:
  // Pages of one item that are taken when it is known how.
  struct Deferred {
    PageFilter filter;
    bool forced;
    PageRanges runs;
  };
  using Take = std::function<void(PageRange)>;

  bool uses_vmsplice() const;
  std::span<const std::unique_ptr<Slot>> part(Slots slots) const;
  void start_helper(LaneAttached* attached);
  void make_slots();
  Chunker chunker_of(pid_t pid, Feed* ordinary, Feed* forced, Exchange* exchange);
  void feed_share(const RoundWork& work, PageRange share, Exchange* exchange);
  void feed_item(const RoundWork& work, PageRange part, const CaptureItem& item, Chunker* chunker);
  void take_all(PageRange range, const CaptureItem& item, const Take& take);
  void take_tracked(const RoundWork& work, PageRange part, const CaptureItem& item,
                    const Take& take);
  void collect(PageRange range, Wanted wanted, const CaptureItem& item, Chunker* chunker);
  void look(PageRange range, const CaptureItem& item, const PageRanges& owed, const Take& take);
  void feed_deferring(const RoundWork& work, PageRange share, Exchange* exchange, Chunker* chunker);
  void defer(const RoundWork& work, PageRange share, Exchange* exchange);
  void make_twin(Twinning* twinning);
  void feed_from_twin(const Twin& twin, Exchange* exchange);
  void end_twin();

  LaneOptions options_;
  TaskLimit limit_;
  std::unique_ptr<TracerTask> tracer_;
  std::unique_ptr<TargetMemory> memory_;
  std::unique_ptr<Helper> helper_;
  std::unique_ptr<PageScan> scan_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<HelperRemains> remains_;
  std::optional<std::vector<SignalAction>> signal_actions_;
  std::unique_ptr<TrackerScan> tracker_scan_;
  std::vector<Deferred> deferred_;
  std::shared_ptr<Twin> twin_;  // of lane 0, while it lives
  LaneRound* round_ = nullptr;
  bool copies_ = false;  // pages of this round, instead of referring to them
  bool cut_off_ = false;
  bool failed_ = false;  // so that something may be left in the pipes
  std::atomic<uint64_t> pages_captured_{0};
};

}  // namespace sluice
