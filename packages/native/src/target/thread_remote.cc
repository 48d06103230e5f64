#include "target/thread_remote.h"

#include <linux/ptrace.h>
#include <linux/rseq.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/control_group.h"
#include "kernel/proc_file.h"
#include "kernel/proc_status.h"
#include "kernel/proc_task.h"
#include "kernel/steps.h"
#include "kernel/syscalls.h"
#include "target/code_search.h"

namespace sluice {
namespace {

constexpr uint64_t kAllSignals = ~uint64_t{0};
// For one injected call; they take microseconds.
constexpr std::chrono::seconds kCallLimit{5};
// Kernel-internal: a call that must simply be made again (ERESTARTNOINTR).
constexpr int64_t kMakeAgain = -513;
constexpr int kMostRepeats = 100;
// Between looks at all threads. Each look stops them; if none qualifies soon, none may ever.
constexpr std::chrono::milliseconds kRetryPause{1};
constexpr std::chrono::milliseconds kLongestRetryPause{64};

[[noreturn]] void throw_exited(pid_t pid) {
  throw Error("TARGET_EXITED", pid, "", 0, "the process ended while it was worked on");
}

[[noreturn]] void throw_no_stack(pid_t pid) {
  throw Error("INJECTION", pid, "", 0,
              "no thread was on a stack with room for a return frame (goroutines, coroutines and "
              "alternate stacks do not qualify)");
}

[[noreturn]] void throw_filtered(pid_t pid, long call) {
  throw Error("INJECTION", pid, "", 0,
              "its seccomp filter stands against system call " + std::to_string(call) +
                  ", and would end it if the dumper died while that is made in it (option force "
                  "takes that risk)");
}

// Of the process as a whole.
void require_calls_possible(pid_t pid) {
  // Returning to a made-up address is an error where the processor checks return addresses.
  const auto status = read_proc_file(pid, "status");
  if (status && status->find("x86_Thread_features:\tshstk") != std::string::npos) {
    throw Error("INJECTION", pid, "", 0, "it uses a shadow stack, which forbids injected calls");
  }
  // A thread would stay with the registers of a call until somebody thaws it.
  // With version 1 none can be stopped, which is found out soon enough.
  const auto frozen = frozen_group(pid);
  if (frozen && !frozen->version1) {
    throw Error("INJECTION", pid, "", 0, "its control group is frozen (" + frozen->directory + ")");
  }
}

}  // namespace

RemoteThread::RemoteThread(const TargetMemory& memory, const arch::Gadgets& gadgets,
                           const std::vector<Mapping>& maps, Deadline deadline,
                           DespiteFilter despite)
    : memory_(memory), gadgets_(gadgets), despite_(despite) {
  const pid_t pid = memory.pid();
  require_calls_possible(pid);
  auto pause = kRetryPause;
  bool all_stuck = true;
  do {
    const auto threads = list_threads(pid);
    if (!threads || threads->empty()) {
      throw_exited(pid);
    }
    for (const pid_t tid : *threads) {
      const auto status = read_thread_status(pid, tid);
      all_stuck = all_stuck && (!status || status->state == 'D');
      if (try_thread(tid, maps, deadline)) {
        return;
      }
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, kLongestRetryPause);
  } while (Clock::now() < deadline);
  if (all_stuck) {
    throw Error("FREEZE_TIMEOUT", pid, "", 0,
                "all of its threads were in uninterruptible system calls, so nothing was stopped");
  }
  throw_no_stack(pid);
}

RemoteThread::RemoteThread(const TargetMemory& memory, const arch::Gadgets& gadgets,
                           const std::vector<Mapping>& maps, const std::vector<Tracee*>& stopped,
                           DespiteFilter despite)
    : memory_(memory), gadgets_(gadgets), despite_(despite) {
  require_calls_possible(memory.pid());
  for (Tracee* tracee : stopped) {
    const auto status = read_thread_status(memory.pid(), tracee->tid());
    stopped_since_ = Clock::now();
    if (status && prepare(tracee, status->seccomp_mode, maps)) {
      tracee_ = tracee;
      return;
    }
  }
  throw_no_stack(memory.pid());
}

// True: the thread is stopped for us.
bool RemoteThread::stop(Tracee* tracee, Deadline deadline) {
  if (!tracee->seize(0) || !tracee->interrupt()) {
    return false;
  }
  for (;;) {
    switch (tracee->wait(deadline)) {
      case Stop::kEvent:
        return true;
      case Stop::kGone:
        return false;
      case Stop::kTimeout:
        throw Error("FREEZE_TIMEOUT", tracee->tid(), "", 0,
                    "the thread did not stop in time: it is in an uninterruptible system call");
      default:
        tracee->resume();  // with the signal it was about to receive; our stop comes next
    }
  }
}

bool RemoteThread::try_thread(pid_t tid, const std::vector<Mapping>& maps, Deadline deadline) {
  const auto status = read_thread_status(memory_.pid(), tid);
  if (!status || status->is_zombie() || status->state == 'D') {
    return false;
  }
  Tracee tracee(tid);
  stopped_since_ = Clock::now();
  if (!stop(&tracee, std::max(deadline, Clock::now() + kCallLimit)) ||
      !prepare(&tracee, status->seccomp_mode, maps)) {
    return false;
  }
  own_.emplace(std::move(tracee));
  tracee_ = &*own_;
  return true;
}

// Of a stopped thread. False: it does not qualify, and is as it was.
bool RemoteThread::prepare(Tracee* tracee, int seccomp_mode, const std::vector<Mapping>& maps) {
  const pid_t pid = memory_.pid();
  if (!tracee->get_registers(&original_) || !tracee->get_signal_mask(&signal_mask_)) {
    return false;
  }
  // At once, so that a call that only our stop interrupted is made again whoever lets the thread
  // go.
  if (arch::restart_if_merely_stopped(&original_)) {
    tracee->set_registers(original_);
  }
  steps::at(steps::Step::kStopped);
  auto xstate = tracee->extended_state();
  arch::keep_restorable(&xstate);
  const auto room =
      frame_room(maps, arch::stack_pointer(original_), arch::thread_pointer(original_),
                 arch::return_frame_bytes(xstate.size()));
  if (!room || xstate.empty() || in_restartable_sequence(tracee, original_) ||
      !gadgets_stand(TargetMemory(tracee->tid()), gadgets_)) {
    return false;
  }
  long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE;
  if (seccomp_mode != 0) {
    options |= abi::kPtraceSuspendSeccomp;
  }
  if (!tracee->set_options(options)) {
    throw Error("INJECTION", pid, "ptrace", EPERM,
                "it has a seccomp filter, and this caller may not suspend that (needs "
                "CAP_SYS_ADMIN and no filter of its own)");
  }
  if (seccomp_mode != 0 && despite_ == DespiteFilter::kNo) {
    filters_.emplace(tracee, seccomp_mode);
    if (!filters_->allows(arch::return_seen_by_filters(original_, gadgets_))) {
      throw_filtered(pid, SYS_rt_sigreturn);
    }
  }
  frame_ = *room;
  const auto frame = arch::return_frame(frame_, original_, xstate, signal_mask_, gadgets_);
  covered_.resize(frame.size());
  if (!memory_.read(frame_, covered_.data(), covered_.size()) ||
      !TargetMemory::write(tracee->tid(), frame_, frame.data(), frame.size())) {
    return false;
  }
  steps::at(steps::Step::kFrameWritten);
  return true;
}

// The kernel aborts a restartable sequence (rseq(2)) in which a thread was interrupted by looking
// at its instruction pointer on the way back to user mode. An injected call would make it look at
// the wrong place, and the sequence would go on as if nothing had happened.
bool RemoteThread::in_restartable_sequence(Tracee* tracee, const arch::Registers& registers) {
  const auto area = tracee->rseq();
  uint64_t descriptor = 0;
  if (!area ||
      !memory_.read(RemotePtr(area->address) + offsetof(struct rseq, rseq_cs), &descriptor,
                    sizeof descriptor) ||
      descriptor == 0) {
    return false;
  }
  rseq_cs sequence{};
  if (!memory_.read(RemotePtr(descriptor), &sequence, sizeof sequence)) {
    return true;
  }
  return arch::instruction_pointer(registers).value() - sequence.start_ip <
         sequence.post_commit_offset;
}

void RemoteThread::advance_to_syscall_stop() {
  const Deadline deadline = Clock::now() + kCallLimit;
  for (;;) {
    tracee_->resume_to_syscall();
    switch (tracee_->wait(deadline)) {
      case Stop::kSyscall:
        return;
      case Stop::kClone:
        cloned_ = static_cast<pid_t>(tracee_->event_message());
        steps::at(steps::Step::kCloned);
        break;
      case Stop::kSignal:
        if (tracee_->signal() != SIGSTOP) {
          tracee_->take_signal();
          throw Error("INJECTION", memory_.pid(), "", 0, "an injected call was hit by a signal");
        }
        break;  // cannot be blocked; the thread works on for us in a stopped process
      case Stop::kEvent:
        break;
      case Stop::kGone:
        throw_exited(memory_.pid());
      case Stop::kTimeout:
        throw Error("FREEZE_TIMEOUT", memory_.pid(), "", 0, "an injected call did not return");
    }
  }
}

void RemoteThread::require_harmless(const arch::Call& call) const {
  if (filters_ && !filters_->harmless(arch::seen_by_filters(original_, gadgets_, call))) {
    throw_filtered(memory_.pid(), call.number);
  }
}

void RemoteThread::require_allowed(const arch::Call& call) const {
  if (filters_ && !filters_->allows(arch::seen_by_filters(original_, gadgets_, call))) {
    throw_filtered(memory_.pid(), call.number);
  }
}

int64_t RemoteThread::call(const arch::Call& call) {
  require_harmless(call);
  const sys::RemoteFault fault = sys::remote_fault(call.number);
  if (fault.errnum != 0) {
    return -fault.errnum;
  }
  for (int repeats = 0;; ++repeats) {
    if (!tracee_->set_registers(arch::registers_for_return(original_, gadgets_, frame_))) {
      throw_exited(memory_.pid());
    }
    changed_ = true;
    steps::at(steps::Step::kRegistersSet);
    tracee_->set_signal_mask(kAllSignals);
    steps::at(steps::Step::kSignalsBlocked);
    advance_to_syscall_stop();
    steps::at(steps::Step::kReturnEntered);
    if (!tracee_->set_registers(arch::registers_at_entry(original_, gadgets_, call, frame_))) {
      throw_exited(memory_.pid());
    }
    steps::at(steps::Step::kCallEntered);
    advance_to_syscall_stop();
    steps::at(steps::Step::kCallLeft);
    arch::Registers after{};
    if (!tracee_->get_registers(&after)) {
      throw_exited(memory_.pid());
    }
    const int64_t result = arch::call_result(after);
    if (result != kMakeAgain || repeats == kMostRepeats) {
      return result;
    }
  }
}

pid_t RemoteThread::clone(uint64_t flags, RemotePtr stack) {
  arch::Call request;
  request.number = SYS_clone;
  request.args[0] = flags;
  request.args[1] = stack.value();
  cloned_ = 0;
  const int64_t result = call(request);
  if (result < 0 || cloned_ == 0) {
    throw Error("INJECTION", memory_.pid(), "clone", static_cast<int>(-result),
                "no helper could be started in it (a limit on its processes?)");
  }
  // The event names the child in our pid namespace; the call's result does so in the target's.
  return cloned_;
}

void RemoteThread::put_back() {
  if (changed_) {
    // The thread is at the exit of a call. Interrupted system calls restart only on the path that
    // looks for signals, so it must be there when it gets its registers back.
    tracee_->interrupt();
    const Deadline deadline = Clock::now() + kCallLimit;
    for (bool there = false; !there;) {
      tracee_->resume();
      switch (tracee_->wait(deadline)) {
        case Stop::kEvent:
          there = true;
          break;
        case Stop::kSignal:
          if (tracee_->signal() != SIGSTOP) {
            tracee_->take_signal();
          }
          break;
        case Stop::kGone:
        case Stop::kTimeout:
          return;
        default:
          break;
      }
    }
    tracee_->set_signal_mask(signal_mask_);
    steps::at(steps::Step::kMaskReturned);
  }
  tracee_->set_registers(original_);
  steps::at(steps::Step::kPutBack);
  // From here on nothing leads to the frame.
  TargetMemory::write(tracee_->tid(), frame_, covered_.data(), covered_.size());
}

RemoteThread::~RemoteThread() {
  if (tracee_->stopped()) {
    put_back();
  }
  if (!own_) {
    tracee_->set_options(0);
  }
}

}  // namespace sluice
