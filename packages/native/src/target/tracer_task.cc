#include "target/tracer_task.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "target/arch.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace sluice {
namespace {

enum State : uint32_t { kStarting, kIdle, kRequested, kDone, kExit };

constexpr size_t kStackBytes = size_t{1} << 20;
constexpr size_t kGuardBytes = 4096;

constexpr int64_t kNsPerSecond = 1'000'000'000;
// For work that meets its limit to end in order.
constexpr std::chrono::milliseconds kOrderlyEnd{500};
// Between looks whether a task that was killed is gone, and whether one has to be.
constexpr int64_t kGonePauseNs = 1'000'000;
constexpr int64_t kLookPauseNs = 250'000'000;

void futex_wait(std::atomic<uint32_t>* word, uint32_t while_value, const timespec* timeout) {
  arch::raw_syscall(SYS_futex, reinterpret_cast<long>(word), FUTEX_WAIT_PRIVATE, while_value,
                    reinterpret_cast<long>(timeout));
}

void futex_wake(std::atomic<uint32_t>* word) {
  arch::raw_syscall(SYS_futex, reinterpret_cast<long>(word), FUTEX_WAKE_PRIVATE, 1);
}

// Without libc, as idle tasks are.
int64_t monotonic_ns() {
  timespec now{};
  arch::raw_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, reinterpret_cast<long>(&now));
  return now.tv_sec * kNsPerSecond + now.tv_nsec;
}

timespec timespec_of(int64_t ns) { return {ns / kNsPerSecond, ns % kNsPerSecond}; }

int64_t ns_of(TaskLimit::Clock::time_point at) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count();
}

class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~AllSignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

#ifdef __SANITIZE_ADDRESS__
// AddressSanitizer keeps the bounds of a thread's stack in its thread-local storage. While that is
// lent to a task with a stack of its own, they must be those of that stack.
class SanitizerKnowsStack {
 public:
  explicit SanitizerKnowsStack(void* stack) {
    __sanitizer_start_switch_fiber(&fake_stack_, stack, kStackBytes);
    __sanitizer_finish_switch_fiber(nullptr, &bottom_, &bytes_);
  }
  ~SanitizerKnowsStack() {
    __sanitizer_start_switch_fiber(nullptr, bottom_, bytes_);
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
  }
  SanitizerKnowsStack(const SanitizerKnowsStack&) = delete;
  SanitizerKnowsStack& operator=(const SanitizerKnowsStack&) = delete;

 private:
  void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
};
#else
class SanitizerKnowsStack {
 public:
  explicit SanitizerKnowsStack(void*) {}
};
#endif

}  // namespace

void TaskLimit::set(Clock::time_point at) {
  idle_ns_.store(ns_of(at), std::memory_order_relaxed);
  work_ns_.store(ns_of(at + kOrderlyEnd), std::memory_order_relaxed);
}

void TaskLimit::set_for_work(Clock::time_point at) {
  work_ns_.store(ns_of(at), std::memory_order_relaxed);
}

void TaskLimit::clear() {
  idle_ns_.store(kNever, std::memory_order_relaxed);
  work_ns_.store(kNever, std::memory_order_relaxed);
}

bool TaskLimit::passed() const {
  return monotonic_ns() >= idle_ns_.load(std::memory_order_relaxed);
}

TracerTask::TracerTask(const TaskLimit* limit)
    : limit_(limit), state_(kStarting), alive_(1), creator_(getpid()) {
  stack_ = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
  if (stack_ == MAP_FAILED) {
    throw Error("SYSTEM", 0, "mmap", errno, "no memory for the tracer task's stack");
  }
  mprotect(stack_, kGuardBytes, PROT_NONE);
  const AllSignalsBlocked blocked;
  pid_ = clone(&TracerTask::main, static_cast<char*>(stack_) + kStackBytes,
               CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_CHILD_CLEARTID, this, nullptr, nullptr,
               &alive_);
  if (pid_ < 0) {
    const int err = errno;
    munmap(stack_, kStackBytes);
    throw Error("SYSTEM", 0, "clone", err, "the tracer task could not be started");
  }
  // Only once it watches its creator may that one end. Its own end wakes nobody who waits here.
  while (state_.load(std::memory_order_acquire) == kStarting &&
         alive_.load(std::memory_order_acquire) != 0) {
    const timespec second{1, 0};
    futex_wait(&state_, kStarting, &second);
  }
}

TracerTask::~TracerTask() {
  state_.store(kExit, std::memory_order_release);
  futex_wake(&state_);
  reap();
}

void TracerTask::reap() {
  // Clone children without exit signal are invisible to an ordinary wait, so nobody else reaps it.
  while (waitpid(pid_, nullptr, __WCLONE) < 0 && errno == EINTR) {
  }
  munmap(stack_, kStackBytes);
}

int TracerTask::main(void* self) {
  auto* task = static_cast<TracerTask*>(self);
  arch::raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
  arch::raw_syscall(SYS_prctl, PR_SET_NAME, reinterpret_cast<long>("sluice-tracer"));
  if (arch::raw_syscall(SYS_getppid) != task->creator_) {
    return 0;  // the creator died before it could be watched
  }
  task->state_.store(kIdle, std::memory_order_release);
  futex_wake(&task->state_);
  for (;;) {
    const uint32_t state = task->state_.load(std::memory_order_acquire);
    if (state == kExit) {
      arch::raw_syscall(SYS_exit, 0);
    }
    if (state == kRequested) {
      task->function_(task->argument_);
      task->state_.store(kDone, std::memory_order_release);
      futex_wake(&task->state_);
      continue;
    }
    const int64_t limit =
        task->limit_ == nullptr ? TaskLimit::kNever : task->limit_->idle_ns_.load();
    if (limit == TaskLimit::kNever) {
      futex_wait(&task->state_, state, nullptr);
      continue;
    }
    const int64_t left = limit - monotonic_ns();
    if (left <= 0) {
      arch::raw_syscall(SYS_exit, 0);
    }
    const timespec timeout = timespec_of(left);
    futex_wait(&task->state_, state, &timeout);
  }
}

void TracerTask::execute(void (*function)(void*), void* argument) {
  const AllSignalsBlocked blocked;
  function_ = function;
  argument_ = argument;
  if (!let_it_work()) {
    if (limit_ != nullptr && limit_->passed()) {
      throw Error("FREEZE_LIMIT", 0, "", 0,
                  "the freeze lasted longer than its limit and was ended; the process runs again");
    }
    throw Error("WORKER", 0, "", 0, "the tracer task was killed; nothing it traced is stopped");
  }
}

// Lends it the thread-local storage until it is done. False: it was killed.
bool TracerTask::let_it_work() {
  const SanitizerKnowsStack known(stack_);
  state_.store(kRequested, std::memory_order_release);
  futex_wake(&state_);
  while (state_.load(std::memory_order_acquire) == kRequested) {
    const int64_t limit = limit_ == nullptr ? TaskLimit::kNever : limit_->work_ns_.load();
    const int64_t left = limit - monotonic_ns();
    if (left <= 0) {
      arch::raw_syscall(SYS_kill, pid_, SIGKILL);
    }
    const timespec pause = timespec_of(std::clamp(left, kGonePauseNs, kLookPauseNs));
    futex_wait(&state_, kRequested, &pause);
    if (!alive()) {
      return false;
    }
  }
  state_.store(kIdle, std::memory_order_relaxed);
  return true;
}

}  // namespace sluice
