// A dump in C++ with real threads, in the order in which the core makes it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "kernel/syscalls.h"
#include "restore/restore_session.h"
#include "session/dump_session.h"
#include "tools.h"

namespace sluice::test {

// A thread that does one job after the other, as control and lanes need it.
class Worker {
 public:
  Worker() : thread_([this] { work(); }) {}
  ~Worker() {
    run([this] { over_ = true; });
    thread_.join();
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  // What it threw, as a code; "" if nothing. When the future is asked for it.
  std::future<std::string> run(std::function<void()> job) {
    std::packaged_task<std::string()> task([job = std::move(job)]() -> std::string {
      try {
        job();
        return "";
      } catch (const Error& error) {
        return error.code();
      } catch (const Failure& failure) {
        return failure.what;
      }
    });
    auto result = task.get_future();
    const std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(std::move(task));
    some_.notify_one();
    return result;
  }

 private:
  void work() {
    while (!over_) {
      std::unique_lock<std::mutex> lock(mutex_);
      some_.wait(lock, [&] { return !jobs_.empty(); });
      auto job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
    }
  }
  std::mutex mutex_;
  std::condition_variable some_;
  std::deque<std::packaged_task<std::string()>> jobs_;
  bool over_ = false;
  std::thread thread_;
};

// The order of a dump, as the core does it.
class Dump {
 public:
  explicit Dump(const SessionOptions& options)
      : session(options), dir_(options.dir), lanes_(options.lanes), drains_(options.drains) {}
  ~Dump() {
    sys::set_faults({});
    session.cancel();
    detach();
  }
  Dump(const Dump&) = delete;
  Dump& operator=(const Dump&) = delete;

  // Each step: codes of all that failed in it.
  std::vector<std::string> attach() {
    std::vector<std::future<std::string>> jobs;
    jobs.push_back(control_.run([this] { session.control_attach(); }));
    auto found = codes(jobs);
    // One after the other: a thread of the target can be traced by one of them at a time.
    for (size_t i = 0; i < lanes_.size() && found.empty(); ++i) {
      jobs.push_back(lanes_[i].run([this, i] {
        const LaneAttached attached = session.lane_attach(i);
        helpers += attached.with_helper ? 1 : 0;
      }));
      found = codes(jobs);
    }
    return found;
  }
  std::vector<std::string> track() {
    std::vector<std::future<std::string>> jobs;
    jobs.push_back(lanes_.front().run([this] { session.lane_track(); }));
    return codes(jobs);
  }
  // The next round, in its own directory if there is one; `cuts` are kept for a final round.
  std::vector<std::string> prepare(RoundKind kind = RoundKind::kWhole, std::string dir = "",
                                   bool copy = false) {
    std::vector<std::future<std::string>> jobs;
    survey.clear();
    jobs.push_back(
        control_.run([&] { round = session.control_prepare(kind, &survey, copy, 100); }));
    auto found = codes(jobs);
    if (!found.empty()) {
      return found;
    }
    dir = dir.empty() ? dir_ : dir;
    uint64_t pages = 0;
    for (const SurveyItem& item : survey) {
      pages += item.pages;
    }
    std::vector<uint64_t> cuts;
    uint64_t passed = 0;
    for (const SurveyItem& item : survey) {
      while (cuts.size() + 1 < lanes_.size() &&
             passed * lanes_.size() >= pages * (cuts.size() + 1)) {
        cuts.push_back(item.range.start);
      }
      passed += item.pages;
    }
    cuts.resize(lanes_.size() - 1, kAddressSpaceEnd);
    session.set_cuts(round, cuts);
    jobs.clear();
    for (size_t i = 0; i < drains_.size(); ++i) {
      jobs.push_back(drains_[i].run([this, i, pages, dir] {
        session.drain_open(i, round, dir, pages * kPageBytes / drains_.size());
      }));
    }
    return codes(jobs);
  }
  // A live round right after the one that was prepared last.
  std::vector<std::string> repeat(const std::string& dir) {
    std::vector<std::future<std::string>> jobs;
    jobs.push_back(control_.run([&] { round = session.control_repeat(round); }));
    auto found = codes(jobs);
    if (!found.empty()) {
      return found;
    }
    for (size_t i = 0; i < drains_.size(); ++i) {
      jobs.push_back(drains_[i].run([this, i, dir] { session.drain_open(i, round, dir, 0); }));
    }
    return codes(jobs);
  }
  void start_capture() { start_capture(0, 0); }
  void start_capture(size_t first, size_t last, After after = After::kResume) {
    for (size_t i = 0; i < lanes_.size(); ++i) {
      capturing_.push_back(lanes_[i].run([=, this] { session.lane_capture(i, first, last); }));
    }
    for (size_t i = 0; i < drains_.size(); ++i) {
      capturing_.push_back(drains_[i].run([=, this] { session.drain_run(i, first, last); }));
    }
    capturing_.push_back(control_.run([=, this] { session.control_capture(first, last, after); }));
  }
  std::vector<std::string> wait_capture() { return codes(capturing_); }
  std::vector<std::string> release(DumpSession::Release how) {
    std::vector<std::future<std::string>> jobs;
    jobs.push_back(control_.run([this, how] { session.control_release(how); }));
    return codes(jobs);
  }
  std::vector<std::string> seal() {
    std::vector<std::future<std::string>> jobs;
    sealed.resize(drains_.size());
    for (size_t i = 0; i < drains_.size(); ++i) {
      jobs.push_back(
          drains_[i].run([this, i] { sealed[i] = session.drain_seal(i, 0, 1 << 20, true); }));
    }
    return codes(jobs);
  }
  void detach() {
    if (detached_) {
      return;
    }
    detached_ = true;
    std::vector<std::future<std::string>> jobs;
    for (size_t i = 0; i < lanes_.size(); ++i) {
      jobs.push_back(lanes_[i].run([this, i] { session.lane_detach(i); }));
    }
    codes(jobs);
    jobs.push_back(control_.run([this] { warnings = session.control_detach(); }));
    codes(jobs);
  }

  DumpSession session;
  size_t round = 0;
  std::vector<SurveyItem> survey;
  std::vector<SealedShard> sealed;
  std::vector<std::string> warnings;
  std::atomic<size_t> helpers{0};

 private:
  static std::vector<std::string> codes(std::vector<std::future<std::string>>& jobs) {
    std::vector<std::string> found;
    for (auto& job : jobs) {
      const std::string code = job.get();
      if (!code.empty()) {
        found.push_back(code);
      }
    }
    jobs.clear();
    return found;
  }

  std::string dir_;
  std::vector<Worker> lanes_;
  std::vector<Worker> drains_;
  Worker control_;
  std::vector<std::future<std::string>> capturing_;
  bool detached_ = false;
};

inline const std::vector<std::string> kNoErrors;

inline SessionOptions options_for(pid_t pid, const TempDir& dir, CaptureMode mode) {
  SessionOptions options;
  options.pid = pid;
  options.budget_bytes = 512 * 1024;
  options.capture = mode;
  options.dir = dir.path();
  options.freeze_timeout_ms = 60'000;
  return options;
}

// To take it back to what was dumped; other processes may see shared memory change.
inline RestoreOptions options_of_restore(const Dump& dump, const RoundResult& result, pid_t pid) {
  RestoreOptions options;
  options.pid = pid;
  options.start_time_ticks = dump.session.identity().start_time_ticks;
  for (size_t i = 0; i < result.plan.vmas.size(); ++i) {
    const PlannedVma& vma = result.plan.vmas[i];
    options.vmas.push_back({vma.mapping, vma.kind, result.vm_flags[i], vma.file});
  }
  options.state.threads = result.threads;
  options.state.signal_actions = result.process->signal_actions;
  options.state.descriptors = result.process->files.descriptors;
  for (const StoredRun& run : result.table.runs) {
    append_range(&options.stored, {run.address, run.address + uint64_t{run.pages} * kPageBytes});
  }
  for (const LeftOut& left : result.left_out) {
    options.left_out.push_back(left.range);
  }
  options.shared = true;
  options.freeze_timeout_ms = 60'000;
  return options;
}

}  // namespace sluice::test
