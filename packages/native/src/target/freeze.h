// All threads of a process stopped, for as long as the object lives.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <vector>

#include "target/arch.h"
#include "target/thread_state.h"
#include "target/tracee.h"

namespace sluice {

struct FrozenThread {
  pid_t tid = 0;
  arch::Registers registers{};
};

// How long to wait for threads to stop.
struct Patience {
  Deadline deadline;
  // Asked while waiting; throws to give up earlier.
  std::function<void()> check = [] {};
};

// Waits until no thread of `pid` seems stuck in an uninterruptible system call (vfork(2) waiting
// for its child, a dead file server): such a thread cannot be stopped, and the others would stand
// still for nothing. Threads that are in one for moments do not count. Throws FREEZE_TIMEOUT.
void wait_until_stoppable(pid_t pid, const Patience& patience);

class Freeze {
 public:
  // Throws TARGET_EXITED, PERMISSION, ALREADY_TRACED, FREEZE_TIMEOUT (after which the tracer task
  // must be ended, for a thread that could not be stopped cannot be let go either). `tracer` is the
  // pid of the tracer task that runs this.
  Freeze(pid_t pid, pid_t tracer, const Patience& patience);
  // Thaws.
  ~Freeze();
  Freeze(const Freeze&) = delete;
  Freeze& operator=(const Freeze&) = delete;

  // Lets all threads go.
  void thaw();
  // The tracer task has ended, and thereby let them go.
  void abandon();

  std::vector<FrozenThread> threads() const;
  // To be left stopped.
  std::vector<Tracee*> tracees();
  // All that the kernel keeps of them; some microseconds for each.
  std::vector<ThreadState> thread_states();
  // Time to stop: first thread interrupted until all stood still.
  double freezing_us() const { return freezing_us_; }
  // Time stopped: first thread interrupted until the last one was let go, or until now.
  double frozen_us() const { return thawed_ ? frozen_us_ : microseconds_since(start_); }

 private:
  struct Frozen {
    Tracee tracee;
    arch::Registers registers{};
  };

  size_t seize_new();
  bool some_are_missing() const;
  void wait_all(const Patience& patience);
  void look_at_leader_anew();
  bool leader_is_zombie() const;
  void note_stopped(Frozen* frozen);
  void reap_killed();

  pid_t pid_;
  pid_t tracer_;
  std::map<pid_t, Frozen> threads_;
  Clock::time_point start_;
  double freezing_us_ = 0;
  double frozen_us_ = 0;
  bool thawed_ = false;
  // It calls execve(2), which must be over before the other threads can be seized; or may have.
  bool executes_ = false;
};

}  // namespace sluice
