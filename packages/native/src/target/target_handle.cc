#include "target/target_handle.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"
#include "kernel/proc_task.h"
#include "kernel/syscalls.h"
#include "target/claim.h"

namespace sluice {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLookPause{1};
// Only so that a thread that hangs in the kernel on its way out is not waited for without end.
constexpr std::chrono::seconds kDyingLimit{10};

// Zombies have come to their end: a first thread may be one for as long as others go on.
bool some_exit(pid_t pid) {
  const auto tids = list_threads(pid);
  return !tids || std::any_of(tids->begin(), tids->end(), [](pid_t tid) {
    const auto stat = read_stat(tid);
    const auto status = read_status(tid);
    return !stat || !status || (!stat->is_zombie() && (stat->is_exiting() || status->is_killed()));
  });
}

// A thread that exits can execute nothing and start no other. The number of threads shows whether
// the list has all of them.
bool all_exit(pid_t pid) {
  const auto stat = read_stat(pid);
  const auto tids = list_threads(pid);
  return stat && tids && stat->num_threads > 0 && tids->size() >= stat->num_threads &&
         std::all_of(tids->begin(), tids->end(), [](pid_t tid) {
           const auto thread = read_stat(tid);
           return thread && thread->is_exiting();
         });
}

}  // namespace

void TargetHandle::claim() {
  ScopedFd fd(static_cast<int>(sys::call(SYS_pidfd_open, pid_, 0)));
  const auto stat = read_stat(pid_);
  if (!fd || !stat || stat->start_time_ticks != start_time_ticks_) {
    throw Error("NO_SUCH_PROCESS", pid_, "", 0, "there is no such process");
  }
  pidfd_ = std::move(fd);
  claim_ = claim_target(pid_);
}

bool TargetHandle::is_killed() const {
  const auto status = read_status(pid_);
  // What was sent to the whole process is never taken off the list again. That a single thread is
  // killed means nothing: execve(2) does that to all others.
  return (status && status->is_process_killed()) || all_exit(pid_);
}

bool TargetHandle::is_gone() const {
  if (pidfd_) {
    pollfd ended{pidfd_.get(), POLLIN, 0};
    return poll(&ended, 1, 0) == 1;
  }
  const auto stat = read_stat(pid_);
  return !stat || stat->start_time_ticks != start_time_ticks_;
}

bool TargetHandle::has_ended() const { return is_gone() || is_killed(); }

bool TargetHandle::is_found_ended() const {
  for (const auto limit = SteadyClock::now() + kDyingLimit;;) {
    if (has_ended()) {
      return true;
    }
    if (!some_exit(pid_) || SteadyClock::now() >= limit) {
      return has_ended();
    }
    std::this_thread::sleep_for(kLookPause);
  }
}

std::unique_ptr<RemoteThread> TargetHandle::stop_thread(const TargetMemory& memory,
                                                        const arch::Gadgets& gadgets,
                                                        const std::vector<Mapping>& maps,
                                                        Deadline deadline) const {
  if (!gadgets.complete()) {
    throw Error("INJECTION", pid_, "", 0,
                "its code lacks the instructions that an injected call needs");
  }
  auto thread = std::make_unique<RemoteThread>(memory, gadgets, maps, deadline, despite_);
  if (is_gone()) {
    throw Error("TARGET_EXITED", pid_, "", 0, "its pid belongs to another process now");
  }
  return thread;
}

}  // namespace sluice
