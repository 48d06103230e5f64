// One process, told from a later one with the same pid, and whether it is still there.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "base/scoped_fd.h"
#include "kernel/proc_maps.h"
#include "target/target_memory.h"
#include "target/thread_remote.h"

namespace sluice {

class TargetHandle {
 public:
  TargetHandle(pid_t pid, uint64_t start_time_ticks, DespiteFilter despite = DespiteFilter::kNo)
      : pid_(pid), start_time_ticks_(start_time_ticks), despite_(despite) {}

  // Claims it, as claim_target() does. Throws ALREADY_TRACED, PERMISSION, NO_SUCH_PROCESS.
  void claim();
  pid_t pid() const { return pid_; }
  // None before it is claimed.
  const ScopedFd& pidfd() const { return pidfd_; }

  // Whether its pid is free for another process. One system call, for where the target waits.
  bool is_gone() const;
  // Whether it is dead or certain to die. While a tracer holds its threads, the kernel reports the
  // end of a process that was killed only after that tracer has reaped all of them.
  bool has_ended() const;
  // The same after a failure that its end may be behind. Threads that are dying end alone, for
  // an execve(2) of another one, or with the process: waits until it is seen which.
  bool is_found_ended() const;

  // Tracer task: stops a thread to make calls in, and sees to it that it is this process's. Throws
  // INJECTION, TARGET_EXITED, and whatever RemoteThread throws.
  std::unique_ptr<RemoteThread> stop_thread(const TargetMemory& memory,
                                            const arch::Gadgets& gadgets,
                                            const std::vector<Mapping>& maps,
                                            Deadline deadline) const;

 private:
  bool is_killed() const;

  pid_t pid_;
  uint64_t start_time_ticks_;
  DespiteFilter despite_;
  ScopedFd pidfd_;
  ScopedFd claim_;
};

}  // namespace sluice
