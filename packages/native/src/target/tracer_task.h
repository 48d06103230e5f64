// A task that does the ptrace work of one thread.
//
// ptrace is bound to the task that attached, so each worker needs one task of its own for as long
// as it traces. It cannot be the worker's own thread: wait(2) by any thread of a process sees the
// ptrace stops of a child of that process, and libuv, which waits for the children it spawned,
// takes such a stop for an exit. A thread group of its own does not have that problem: for a child
// traced from outside the parent's thread group the kernel hides ptrace stops from the parent.
//
// So this is clone(CLONE_VM | CLONE_FS | CLONE_FILES) without CLONE_THREAD. It has the memory and
// thread-local storage of the thread that created it, and runs only while that thread waits for it
// with all signals blocked: never do both use the storage at once, as after vfork(2). While
// idle it makes system calls without libc. It dies with its creator (PR_SET_PDEATHSIG), and the
// kernel then releases what it traced. A limit can end it earlier, whatever hangs.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <limits>
#include <type_traits>
#include <utility>

namespace sluice {

// When a tracer task is to be gone, so that the kernel lets go what it traced: the last resort
// against a target that stays frozen. Needs nobody but that task: it ends itself while it is idle.
// While it works, it is given a little longer, to end its work in order; then the thread that waits
// for it kills it, also inside a system call. To be set from anywhere.
class TaskLimit {
 public:
  using Clock = std::chrono::steady_clock;

  void set(Clock::time_point at);
  // Ends no idle task, and work without delay.
  void set_for_work(Clock::time_point at);
  void clear();
  // Whether set() was reached.
  bool passed() const;

 private:
  friend class TracerTask;
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  std::atomic<int64_t> idle_ns_{kNever};
  std::atomic<int64_t> work_ns_{kNever};
};

class TracerTask {
 public:
  // `limit` must outlive it. Throws Error SYSTEM.
  explicit TracerTask(const TaskLimit* limit = nullptr);
  // Ends the task. Tracees that were not detached are released by the kernel.
  ~TracerTask();
  TracerTask(const TracerTask&) = delete;
  TracerTask& operator=(const TracerTask&) = delete;

  // Runs `work` in the tracer task and returns when it is done; only from the creating thread.
  // Exceptions come back to the caller. Throws FREEZE_LIMIT if the limit ended the task, and WORKER
  // if anybody else did.
  template <typename Work>
  auto run(Work&& work) -> std::invoke_result_t<Work&> {
    using Result = std::invoke_result_t<Work&>;
    if constexpr (std::is_void_v<Result>) {
      Job<Work> job{work, nullptr};
      execute(&Job<Work>::invoke, &job);
      job.rethrow();
    } else {
      Result result{};
      auto store = [&] { result = work(); };
      run(store);
      return result;
    }
  }

  pid_t pid() const { return pid_; }
  bool alive() const { return alive_.load(std::memory_order_acquire) != 0; }

 private:
  template <typename Work>
  struct Job {
    Work& work;
    std::exception_ptr error;
    static void invoke(void* self) {
      auto* job = static_cast<Job*>(self);
      try {
        job->work();
      } catch (...) {
        job->error = std::current_exception();
      }
    }
    void rethrow() {
      if (error) {
        std::rethrow_exception(error);
      }
    }
  };

  static int main(void* self);
  void execute(void (*function)(void*), void* argument);
  void reap();
  bool let_it_work();

  const TaskLimit* limit_;
  std::atomic<uint32_t> state_;
  // Cleared and woken by the kernel when the task ends (CLONE_CHILD_CLEARTID).
  std::atomic<uint32_t> alive_;
  void (*function_)(void*) = nullptr;
  void* argument_ = nullptr;
  void* stack_ = nullptr;
  pid_t pid_ = -1;
  pid_t creator_ = -1;
};

}  // namespace sluice
