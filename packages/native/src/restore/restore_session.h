// One restore of one image into one live process. Functions marked "worker" block and must all be
// called from the same thread, in this order:
//
//   attach   a helper is started in the process
//   check    whatever can be known while the process runs
//   freeze   all threads stop, and everything is checked again; nothing is changed yet
//   apply    mappings are brought back, and pages dropped that the image does not have
//   write    pages of the image, any number of times
//   finish   files stand where they stood, and threads have their registers
//   thaw
//   detach   the helper is ended; always to be called
//
// From `apply` on, failure leaves the process half restored. detach() thaws in any case, and so
// does the limit of the freeze, if the next step is not called in time or hangs.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "pages/mapped_file.h"
#include "pages/page_scan.h"
#include "restore/descriptor_restorer.h"
#include "restore/mapping_calls_remote.h"
#include "restore/page_writer.h"
#include "restore/restore_plan.h"
#include "restore/signal_action_restorer.h"
#include "restore/thread_restorer.h"
#include "restore/wanted_state.h"
#include "target/freeze.h"
#include "target/helper_remote.h"
#include "target/target_handle.h"
#include "target/target_memory.h"
#include "target/tracer_task.h"

namespace sluice {

struct RestoreOptions {
  pid_t pid = 0;
  uint64_t start_time_ticks = 0;
  // All ascending and not overlapping.
  std::vector<WantedVma> vmas;
  WantedState state;
  std::vector<PageRange> stored;
  std::vector<PageRange> left_out;
  // Even where other processes would see shared memory change.
  bool shared = false;
  uint64_t freeze_timeout_ms = 0;
  // How long the process may stay frozen without anything being done to it.
  uint64_t freeze_limit_ms = 10'000;
};

struct RestoreResult {
  MappingsDone mappings;
  uint64_t pages_written = 0;
  uint64_t pages_dropped = 0;
  double freezing_us = 0;
  double frozen_us = 0;
  std::vector<std::string> warnings;
};

class RestoreSession {
 public:
  // Looks at the process and refuses what cannot be traced; touches nothing.
  explicit RestoreSession(RestoreOptions options);
  ~RestoreSession();
  RestoreSession(const RestoreSession&) = delete;
  RestoreSession& operator=(const RestoreSession&) = delete;

  // Any thread: freezing is given up. What has been begun after that is brought to its end.
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  // Any thread: the limit has ended the freeze.
  bool limit_passed() const { return limit_.passed(); }
  const RestoreResult& result() const { return result_; }
  // What is really behind a failure: with a process that ended, calls fail in many ways.
  Error explain(const Error& error) const;

  // Worker. Throws TARGET_EXITED, PERMISSION, ALREADY_TRACED, INJECTION.
  void attach();
  // Worker. Throws RESTORE_MISMATCH, FILE_CHANGED.
  void check();
  // Worker. Throws the same, CANCELLED, FREEZE_TIMEOUT, FREEZE_LIMIT; then the process runs.
  // Returns the parts of the memory that cannot be written: what is stored of them must hold()
  // before apply().
  std::vector<PageRange> freeze();
  // Worker. The process has these bytes at `address`. Throws TARGET_EXITED, FREEZE_LIMIT.
  bool holds(RemotePtr address, std::span<const uint8_t> bytes);
  // Worker. Throws RESTORE_INCOMPLETE; any other error means that all was put back.
  void apply();
  // Worker. `bytes` are those of `ranges`, one after the other. Throws RESTORE_INCOMPLETE; this and
  // finish() throw FREEZE_LIMIT, which means the same.
  void write(const std::vector<PageRange>& ranges, std::span<const uint8_t> bytes);
  // Worker, after all is written. Throws RESTORE_INCOMPLETE.
  void finish();
  // Worker.
  void thaw();
  // Worker. Never throws for a process that is gone. Returns warnings.
  std::vector<std::string> detach();

 private:
  uint64_t bytes_to_add() const;
  void start_helper();
  void raise_limits();
  void renew_limit();
  template <typename Work>
  auto run_frozen(Work&& work);
  void stop_all();
  void abandon();
  void change();
  std::vector<Mapping> maps() const;
  std::vector<PresentVma> present_vmas();
  void check_memory(Ask ask);
  std::unique_ptr<RemoteThread> lend_thread();

  RestoreOptions options_;
  std::atomic<bool> cancelled_{false};
  TargetHandle target_;
  MappedFiles files_;
  TaskLimit limit_;
  std::unique_ptr<TracerTask> tracer_;
  std::unique_ptr<TargetMemory> memory_;
  std::unique_ptr<PageScan> scan_;
  arch::Gadgets gadgets_;
  std::unique_ptr<Helper> helper_;
  std::vector<HelperRemains> remains_;
  bool cut_off_ = false;                 // while it started a helper: there may be more remains
  std::unique_ptr<MappingCalls> calls_;  // of the helper
  std::unique_ptr<PageWriter> writer_;
  DescriptorRestorer descriptors_;
  std::unique_ptr<SignalActionRestorer> actions_;
  std::unique_ptr<Freeze> freeze_;
  std::unique_ptr<ThreadRestorer> threads_;  // of the freeze
  // Flags and the maps that they belong to.
  std::vector<Mapping> flagged_maps_;
  std::vector<VmFlags> flags_;
  RestorePlan plan_;
  // Stored or left out: what is not to be dropped.
  std::vector<PageRange> kept_;
  RestoreResult result_;
};

}  // namespace sluice
