// One dump of one process: what control, lanes and drains do, and the order that the gate enforces.
// Functions named control_*, lane_*, drain_* block and belong to the worker threads of that name;
// control's and each lane's must always be called from the same thread.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/scoped_fd.h"
#include "pages/capture_plan.h"
#include "pipe/shard_file.h"
#include "session/exchange.h"
#include "session/lane.h"
#include "session/page_table.h"
#include "target/freeze.h"
#include "target/tracer_task.h"

namespace sluice {

struct SessionOptions {
  pid_t pid = 0;
  size_t lanes = 1;
  size_t drains = 1;
  uint64_t budget_bytes = 0;
  CaptureMode capture = CaptureMode::kAuto;
  IoMode io = IoMode::kAuto;
  std::string dir;
  uint64_t freeze_timeout_ms = 0;
};

struct TargetIdentity {
  std::string name;
  std::vector<std::string> command_line;
  std::string executable;
  uint64_t start_time_ticks = 0;
  pid_t namespace_pid = 0;
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

struct CaptureResult {
  CapturePlan plan;
  std::vector<std::string> vm_flags;  // one per VMA of the plan
  std::vector<FrozenThread> threads;
  std::vector<LeftOut> left_out;
  PageTable table;
  double freezing_us = 0;
  double frozen_us = 0;
  double memdump_us = 0;
  double memwrite_us = 0;
  uint64_t pinned_peak_bytes = 0;
};

class DumpSession {
 public:
  // Looks at the target and refuses what cannot be dumped; touches nothing.
  explicit DumpSession(const SessionOptions& options);

  const TargetIdentity& identity() const { return identity_; }
  void cancel() { exchange_.cancel(); }
  uint64_t pages_captured() const;
  uint64_t bytes_drained() const { return bytes_drained_.load(std::memory_order_relaxed); }
  bool frozen() const { return frozen_.load(std::memory_order_relaxed); }
  // Lane i takes [cuts[i-1], cuts[i]).
  void set_cuts(const std::vector<uint64_t>& cuts);
  CaptureResult take_result();
  // What is really behind a failure: a target that ended or became another program meanwhile makes
  // calls fail in many ways.
  Error explain(const Error& error) const;

  void control_attach();
  std::vector<SurveyItem> control_survey();
  void control_capture();
  std::vector<std::string> control_detach();

  LaneAttached lane_attach(size_t lane) { return lanes_.at(lane)->attach(); }
  void lane_capture(size_t lane);
  void lane_detach(size_t lane) { lanes_.at(lane)->detach(); }

  void drain_open(size_t drain, uint64_t preallocate_bytes);
  void drain_run(size_t drain);
  SealedShard drain_seal(size_t drain, uint64_t piece_bytes);

 private:
  void capture_frozen();
  bool has_ended() const;
  std::vector<uint64_t> scratches() const;
  // What tells this program from one that took its place by execve(2).
  std::vector<uint8_t> program_stamp() const;
  std::vector<uint8_t> settled_stamp() const;

  SessionOptions options_;
  TargetIdentity identity_;
  std::vector<uint8_t> stamp_;
  ScopedFd pidfd_;
  Exchange exchange_;
  MappedFiles files_;
  std::vector<VmFlags> vm_flags_;
  std::unique_ptr<TracerTask> tracer_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<PageRange> shares_;
  std::vector<std::unique_ptr<ShardFile>> shards_;
  CaptureResult result_;
  std::atomic<uint64_t> bytes_drained_{0};
  std::atomic<bool> frozen_{false};
};

}  // namespace sluice
