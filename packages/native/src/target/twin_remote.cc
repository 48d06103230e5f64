#include "target/twin_remote.h"

#include <fcntl.h>
#include <sched.h>

#include <cerrno>
#include <string>

#include "base/error.h"
#include "base/scoped_fd.h"
#include "kernel/proc_status.h"
#include "kernel/steps.h"
#include "kernel/syscalls.h"
#include "kernel/urgent.h"

namespace sluice {
namespace {

// Freeing its memory takes milliseconds for each GiB.
constexpr std::chrono::seconds kEndLimit{5};

constexpr char kFirstVictim[] = "1000";

}  // namespace

std::shared_ptr<Twin> Twin::make(Helper* helper, pid_t target,
                                 std::vector<HelperRemains>* remains) {
  int64_t pid = 0;
  {
    const Urgent urgent(true, helper->pid());
    pid = helper->clone_twin();
  }
  if (pid < 0) {
    throw Error(
        "INJECTION", target, "clone", static_cast<int>(-pid),
        "no copy-on-write twin could be made of it (a limit on its processes or on memory?)");
  }
  remains->push_back({static_cast<pid_t>(pid), RemotePtr()});
  std::shared_ptr<Twin> twin(new Twin(static_cast<pid_t>(pid), helper->exit_registers()));
  if (twin->tracee_.wait_blocking() != Stop::kEvent) {
    twin->end();
    throw Error("INJECTION", target, "clone", ESRCH, "its copy-on-write twin was killed at birth");
  }
  steps::at(steps::Step::kTwinSecured);
  // Its end, which frees its memory, is in no hurry.
  const sched_param ordinary{};
  sys::call(SYS_sched_setscheduler, pid, SCHED_OTHER, &ordinary);
  try {
    twin->memory_ = std::make_unique<TargetMemory>(twin->pid());
    twin->scan_ = PageScan::open(twin->pid());
  } catch (const Error& error) {
    twin->end();
    throw Error("INJECTION", target, "open", error.err(),
                "the memory of its copy-on-write twin cannot be read");
  }
  return twin;
}

bool Twin::has(PageRange page, PageFilter filter) {
  const std::lock_guard<std::mutex> lock(scanning_);
  bool found = false;
  scan_->scan(page, filter, [&](PageRange) {
    found = true;
    return false;
  });
  return found;
}

bool Twin::stands() const {
  const auto status = read_status(pid());
  return status && status->state == 't';
}

void Twin::give_way() {
  const std::string path = "/proc/" + std::to_string(pid()) + "/oom_score_adj";
  const ScopedFd file(
      static_cast<int>(sys::call(SYS_openat, AT_FDCWD, path.c_str(), O_WRONLY | O_CLOEXEC)));
  if (file) {
    sys::call(SYS_write, file.get(), kFirstVictim, sizeof kFirstVictim - 1);
  }
}

// It ends by a call of its own: killing a task of another user may not be allowed. If the code for
// that is not in its memory, it dies of the fault, as all signals are blocked.
void Twin::end() {
  if (tracee_.stopped()) {
    steps::at(steps::Step::kTwinCaptured);
    tracee_.set_registers(exit_registers_);
    tracee_.resume();
  }
  const Deadline deadline = Clock::now() + kEndLimit;
  while (tracee_.attached()) {
    const Stop stop = tracee_.wait(deadline);
    if (stop == Stop::kTimeout) {
      return;  // it dies with the tracer task
    }
    if (stop != Stop::kGone) {
      tracee_.resume();
    }
  }
  steps::at(steps::Step::kTwinEnded);
}

}  // namespace sluice
