// Runs system calls in a thread of the target. DANGER: this is where the target can be harmed.
//
// The thread is stopped, its registers are set to make a call, and afterwards everything is put
// back. If the dumper dies in between, the kernel lets the thread run on with whatever registers
// it has then. So before anything is changed, a signal frame with the thread's own state is put
// below the red zone of its stack, and every injected call returns into rt_sigreturn with that
// frame: the thread finds its own way back. Order of the steps, and what death of the dumper means:
//
//   1. stop the thread                      the kernel lets it go
//   2. write the frame below the red zone   nobody reads there
//   3. set registers to rt_sigreturn        the frame restores everything
//   4. block its signals                    as 3: the frame has the signal mask
//   5. let it go to the entry of that call  as 3
//   6. make it another call there           that call is made, and then as 3
//   7. the call runs; again from 3          as 3
//   8. give back its signal mask            as 3
//   9. give back its registers              it goes on where it was
//  10. detach
//
// The detour over the entry of rt_sigreturn is for targets with a seccomp filter. The tracer
// suspends that, and a thread that it lets go before the call would be killed for making it. If the
// tracer dies between 6 and the kernel's look at the filter, that look decides. So a call that the
// filter does not let pass, or fail, is not made, unless the caller takes that risk.
//
// The call runs with PTRACE_SYSCALL and not PTRACE_SINGLESTEP: the kernel takes back the former
// when a tracer dies, but leaves the trap flag of the latter set, and the thread would die of
// SIGTRAP.
//
// Only a thread whose stack has room for the frame will do, so the stack must be known to be one:
// the [stack] of the main thread, or a mapping with a guard below that holds the thread's own
// control block above the stack pointer, as libc lays out its threads. Coroutines, goroutines and
// handlers on an alternate stack do not qualify.
#pragma once

#include <sys/types.h>

#include <optional>
#include <vector>

#include "base/remote_ptr.h"
#include "kernel/proc_maps.h"
#include "target/arch.h"
#include "target/seccomp_filters.h"
#include "target/target_memory.h"
#include "target/tracee.h"

namespace sluice {

// Whether a call is injected that the thread's own seccomp filter would end it for, if the dumper
// died at the wrong instant.
enum class DespiteFilter { kNo, kYes };

class RemoteThread {
 public:
  // Stops a suitable thread of `pid`. Throws TARGET_EXITED, PERMISSION, ALREADY_TRACED,
  // FREEZE_TIMEOUT (after which the tracer task must be ended), INJECTION (no thread will do).
  RemoteThread(const TargetMemory& memory, const arch::Gadgets& gadgets,
               const std::vector<Mapping>& maps, Deadline deadline,
               DespiteFilter despite = DespiteFilter::kNo);
  // Takes a suitable one of threads that are stopped (Stop::kEvent) already, and leaves it stopped.
  // Throws INJECTION.
  RemoteThread(const TargetMemory& memory, const arch::Gadgets& gadgets,
               const std::vector<Mapping>& maps, const std::vector<Tracee*>& stopped,
               DespiteFilter despite = DespiteFilter::kNo);
  // Puts everything back, and lets the thread go if it was stopped for this.
  ~RemoteThread();
  RemoteThread(const RemoteThread&) = delete;
  RemoteThread& operator=(const RemoteThread&) = delete;

  // Result in the kernel's style. Throws TARGET_EXITED, FREEZE_TIMEOUT, INJECTION.
  int64_t call(const arch::Call& call);
  // Throws INJECTION if the seccomp filter of the thread stands against such a call.
  void require_harmless(const arch::Call& call) const;
  // The same for one that must be made, because nothing could go on after it.
  void require_allowed(const arch::Call& call) const;
  // The same for clone; the child is attached to this tracer and stopped, or about to be.
  // Throws INJECTION.
  pid_t clone(uint64_t flags, RemotePtr stack);
  // The child of the last clone(), also of one that failed after it was there; 0 for none. It is
  // let go with the tracer, and ends then.
  pid_t cloned() const { return cloned_; }
  pid_t tid() const { return tracee_->tid(); }
  // The registers that the thread came with.
  const arch::Registers& registers() const { return original_; }
  // How long it has been stopped.
  double stopped_us() const { return microseconds_since(stopped_since_); }

 private:
  bool try_thread(pid_t tid, const std::vector<Mapping>& maps, Deadline deadline);
  bool stop(Tracee* tracee, Deadline deadline);
  bool prepare(Tracee* tracee, int seccomp_mode, const std::vector<Mapping>& maps);
  bool in_restartable_sequence(Tracee* tracee, const arch::Registers& registers);
  void advance_to_syscall_stop();
  void put_back();

  const TargetMemory& memory_;
  arch::Gadgets gadgets_;
  std::optional<Tracee> own_;
  Tracee* tracee_ = nullptr;
  arch::Registers original_{};
  uint64_t signal_mask_ = 0;
  RemotePtr frame_;
  std::vector<uint8_t> covered_;  // what was where the frame is; nobody's, but not ours either
  Clock::time_point stopped_since_;
  pid_t cloned_ = 0;
  bool changed_ = false;
  DespiteFilter despite_;
  std::optional<SeccompFilters> filters_;  // of the thread, if they count
};

// Where a frame of `bytes` may be put for a thread with these registers; none if its stack does
// not qualify. Pure.
std::optional<RemotePtr> frame_room(const std::vector<Mapping>& maps, RemotePtr stack_pointer,
                                    RemotePtr thread_pointer, size_t bytes);

}  // namespace sluice
