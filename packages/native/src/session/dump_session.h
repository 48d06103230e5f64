// One dump of one process, in rounds: what control, lanes and drains do, and the order that the
// gate of each round enforces.
//
//   prepare ─▶ set_cuts, open ─▶ capture (all at the same time) ─▶ finish ─▶ prepare the next ...
//
// A live round and the final one can be captured in one go, so that nothing lies between them.
// Functions named control_*, lane_*, drain_* block and belong to the worker threads of that name;
// control's and each lane's must always be called from the same thread.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/scoped_fd.h"
#include "kernel/process_state.h"
#include "pages/capture_plan.h"
#include "pipe/places.h"
#include "pipe/shard_file.h"
#include "session/consistency.h"
#include "session/exchange.h"
#include "session/lane.h"
#include "session/page_table.h"
#include "target/arch.h"
#include "target/freeze.h"
#include "target/target_handle.h"
#include "target/tracer_task.h"
#include "track/tracker.h"

namespace sluice {

struct SessionOptions {
  pid_t pid = 0;
  size_t lanes = 1;
  size_t drains = 1;
  uint64_t budget_bytes = 0;
  CaptureMode capture = CaptureMode::kAuto;
  IoMode io = IoMode::kAuto;
  // Of the image; each round names its own directory.
  std::string dir;
  uint64_t freeze_timeout_ms = 0;
  // From the first thread stopped to the last one resumed; 0 for no limit.
  uint64_t freeze_limit_ms = 0;
  TrackerMode tracker = TrackerMode::kNone;
  // Live rounds are to be complete, as for someone who takes the final one in place of this
  // session: they take what nobody writes to as well, and tell what the chain holds after them.
  bool hand_over = false;
  // How the last pages are kept as they were under freeze, of a round that copies.
  Consistency consistency = Consistency::kCopy;
  // A helper is used whatever the seccomp filter of the target says of the calls that it costs.
  bool force = false;
  // A file in which pages have places, instead of shards in directories; and how many bytes at its
  // start are not for pages. "" for none.
  std::string placed_file;
  uint64_t places_from = 0;
  // Pages in the image that the first round builds on, taken when soft-dirty bits were reset last.
  PageRanges known;
};

// What becomes of the target after its last round.
enum class After {
  // It goes on as soon as its pages are in the shards, or copied.
  kResume,
  // It stays frozen until release().
  kStop,
};

struct TargetIdentity {
  std::string name;
  std::vector<std::string> command_line;
  std::string executable;
  uint64_t start_time_ticks = 0;
  pid_t namespace_pid = 0;
};

// What tells a program from one that took its place by execve(2).
struct ProgramStamp {
  std::vector<uint8_t> auxiliary_vector;
  std::vector<uint8_t> random;  // bytes at AT_RANDOM (getauxval(3)), new with each execve

  bool operator==(const ProgramStamp&) const = default;
};

struct SurveyItem {
  PageRange range;
  uint64_t pages = 0;
  uint64_t runs = 0;
};

struct SealedShard {
  std::string file;
  uint64_t bytes = 0;
  bool direct = false;
  std::string io_reason;
  std::vector<uint32_t> crcs;
  double checksum_us = 0;
  double sync_us = 0;
};

struct LeftOut {
  PageRange range;
  std::string reason;
};

struct CapturedProcess {
  ProcessState state;
  ProcessFiles files;
  std::vector<uint8_t> auxiliary_vector;
  uint64_t program_break = 0;  // 0 if not known
  // Of the signals that it catches; nullopt if they cannot be had.
  std::optional<std::vector<SignalAction>> signal_actions;
  std::vector<arch::ExtendedFeature> extended_layout;
};

struct RoundResult {
  RoundKind kind = RoundKind::kWhole;
  CapturePlan plan;
  std::vector<std::string> vm_flags;  // one per VMA of the plan
  // After a live round there are none of these.
  std::vector<ThreadState> threads;
  std::optional<CapturedProcess> process;
  std::vector<LeftOut> left_out;
  PageTable table;
  // After a live round that is to be handed over: pages that this image or one below it has, as
  // they were when the tracker reset them or later.
  PageRanges covered;
  // When the tracker reset all at once: time since boot (CLOCK_BOOTTIME).
  uint64_t reset_uptime_us = 0;
  // After a frozen round: whether its pages come from a twin, and why or why not. A round that was
  // to make a twin and could not has a warning, too.
  bool by_twin = false;
  std::string consistency_reason;
  double scan_us = 0;  // of the slowest lane, while it collected or looked; or of the reset
  double freezing_us = 0;
  double frozen_us = 0;
  double memdump_us = 0;
  double memwrite_us = 0;
  uint64_t pinned_peak_bytes = 0;
};

// What the tracker came to be, with the reason if it is not what was hoped for.
struct TrackerAttached {
  TrackerMode mode = TrackerMode::kNone;
  std::string reason;
};

class DumpSession {
 public:
  // Looks at the target and refuses what cannot be dumped; touches nothing.
  explicit DumpSession(const SessionOptions& options);
  ~DumpSession();

  const TargetIdentity& identity() const { return identity_; }
  void cancel();
  uint64_t pages_captured() const;
  uint64_t bytes_drained() const { return bytes_drained_.load(std::memory_order_relaxed); }
  bool frozen() const { return frozen_.load(std::memory_order_relaxed); }
  // Lane i takes [cuts[i-1], cuts[i]). For a round that was prepared.
  void set_cuts(size_t round, const std::vector<uint64_t>& cuts);
  // What is really behind a failure: a target that ended or became another program meanwhile makes
  // calls fail in many ways.
  Error explain(const Error& error) const;

  void control_attach();
  // The tracker that the options ask for, made with lane 0, which must be attached; kAuto takes
  // what there is. Throws TRACKER_UNAVAILABLE.
  TrackerAttached lane_track();
  // Makes a round and looks what there is to be taken, the target running; nothing is looked at
  // before a final round. What a round that failed had collected is owed to the next. `copy`: pages
  // of this round are copied while the target is frozen and written afterwards, or come from a twin
  // if the options allow that; about `copy_pages` are expected. Returns the number of the round.
  size_t control_prepare(RoundKind kind, std::vector<SurveyItem>* items, bool copy = false,
                         uint64_t copy_pages = 0);
  // Makes a live round with the plan and the cuts of another one, to be taken right after it.
  // Nothing is looked at. Returns its number.
  size_t control_repeat(size_t live);
  // For each of the rounds [first, last]: waits until all lanes and drains stand at its gate, and
  // takes it.
  void control_capture(size_t first, size_t last, After after = After::kResume);
  // Whether the target stands frozen after its last round.
  bool held() const { return freeze_ != nullptr; }
  // Lets a held target go; or leaves it as SIGSTOP would; or kills it.
  enum class Release { kResume, kStopped, kKill };
  // Returns how long it was frozen, microseconds. Throws FREEZE_LIMIT if it goes on already; then
  // nothing is done to it.
  double control_release(Release how);
  // Throws FREEZE_LIMIT if a target that is to be held goes on already.
  void control_require_held();
  std::vector<std::string> control_detach();

  LaneAttached lane_attach(size_t lane) { return lanes_.at(lane)->attach(); }
  void lane_capture(size_t lane, size_t first, size_t last);
  void lane_detach(size_t lane) { lanes_.at(lane)->detach(); }

  void drain_open(size_t drain, size_t round, const std::string& dir, uint64_t preallocate_bytes);
  void drain_run(size_t drain, size_t first, size_t last);
  // What came of a round that went well; once.
  RoundResult finish_round(size_t round);
  // Where pages have their places; null without.
  Places* places() const { return places_.get(); }
  // `durable`: it survives a crash of the machine from then on.
  SealedShard drain_seal(size_t drain, size_t round, uint64_t piece_bytes, bool durable);

 private:
  struct Round {
    Round(size_t lane_count, size_t drain_count)
        : exchange(lane_count, drain_count), shards(drain_count), lanes(lane_count) {}
    RoundWork work;
    Twinning twinning;
    std::vector<PageRange> shares;
    Exchange exchange;
    std::vector<std::unique_ptr<ShardFile>> shards;
    std::vector<LaneRound> lanes;
    // A live round that began and did not come to its end: its pages are owed.
    bool owes = false;
    // All that the tracker reset at once.
    PageRanges reset;
    // After a live round: what all rounds up to it hold, and what they owe.
    PageRanges chain;
    PageRanges owed;
    // After a frozen round: as soon as that cost no freeze.
    std::vector<VmFlags> vm_flags;
    Clock::time_point opened;
    RoundResult result;
  };

  Round* round_at(size_t number);
  Round* add_round(size_t* number);
  void fail_rounds(size_t first, size_t last);
  void take_over_owed();
  void add_to_survey(const Round& round, const CaptureItem& item, PageScan* pages,
                     TrackerScan* written, std::vector<SurveyItem>* items) const;
  std::unique_ptr<Tracker> make_tracker(TrackerMode mode);
  std::unique_ptr<Freeze> freeze_target(Exchange* exchange);
  void end_hung_lanes();
  void capture_live(Round* round, const Round* before, bool drains_too);
  void reset_frozen(Round* round);
  void settle_live(Round* round);
  void capture_frozen(Round* round, const Round* live, size_t parts, After after);
  void measure_costs(const CapturePlan& plan);
  void prepare_twin(Round* round);
  void note_consistency(Round* round) const;
  void note_vm_flags(Round* round) const;
  std::string vm_flags_of(const Round& round, const Mapping& mapping) const;
  void note_drain_rate(const Round& round);
  void require_same_program() const;
  PageRanges pages_in_parent(const Round& round) const;
  std::vector<uint64_t> scratches() const;
  ProgramStamp program_stamp() const;
  ProgramStamp settled_stamp() const;

  SessionOptions options_;
  TargetIdentity identity_;
  ProgramStamp stamp_;
  TargetHandle target_{0, 0};
  MappedFiles files_;
  std::unique_ptr<Places> places_;
  std::vector<VmFlags> vm_flags_;  // when the session began, before a tracker watched
  TaskLimit limit_;                // of control's tracer task, while it freezes the target
  std::unique_ptr<TracerTask> tracer_;
  std::unique_ptr<Freeze> freeze_;  // belongs to the tracer task
  std::unique_ptr<Tracker> tracker_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  bool moving_pages_matter_ = false;               // to the file system
  double drain_us_ = ConsistencyCosts{}.drain_us;  // of a page, with all drains, when last seen
  std::optional<uint64_t> huge_pages_;             // in units of 4 KiB; when first looked
  std::future<void> measuring_;                    // of memory_rates()

  PageRanges chain_;  // pages that are in the rounds so far
  PageRanges owed_;   // pages that were collected and are in none
  // Descriptors of the target before the freeze: io_uring instances, and what has a position.
  std::vector<std::string> rings_;
  std::vector<uint32_t> open_files_;
  mutable std::mutex mutex_;
  std::deque<std::unique_ptr<Round>> rounds_;  // with mutex_; a round itself belongs to its users
  bool cancelled_ = false;                     // with mutex_
  std::atomic<uint64_t> bytes_drained_{0};
  std::atomic<bool> frozen_{false};
};

}  // namespace sluice
