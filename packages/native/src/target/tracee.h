// One traced task, and the only place that calls ptrace and waits for tracees. All of it must run
// in the TracerTask that attached. A task that is gone is a value here (false, kGone), never an
// exception: targets end when they like.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "target/arch.h"

namespace sluice {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

inline double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// Waits between looks at a task that has not stopped yet: not at all at first, since a running
// thread stops within microseconds, and a little when that has gone on for long.
class LookPacer {
 public:
  void pause();
  // It takes longer than it should.
  bool slow() const;

 private:
  int looks_ = 0;
};

enum class Stop {
  kEvent,    // stopped by us, or by job control
  kSignal,   // about to receive signal()
  kSyscall,  // entry or exit of a system call
  kClone,    // has just made the child that event_message() names
  kGone,     // ended or was killed
  kTimeout,  // still running
};

// What a thread registered with rseq(2).
struct RseqArea {
  uint64_t address = 0;
  uint32_t bytes = 0;
  uint32_t signature = 0;
};

class Tracee {
 public:
  explicit Tracee(pid_t tid) : tid_(tid) {}
  // An attached task that is stopped is let go. One that runs cannot be: it stays with the tracer
  // task and is released when that ends.
  ~Tracee();
  Tracee(Tracee&& other) noexcept;
  Tracee& operator=(Tracee&&) = delete;
  Tracee(const Tracee&) = delete;
  Tracee& operator=(const Tracee&) = delete;

  pid_t tid() const { return tid_; }
  bool attached() const { return attached_; }
  bool stopped() const { return stopped_; }
  int signal() const { return signal_; }
  // Takes away the signal that the task was about to receive.
  int take_signal() { return std::exchange(signal_, 0); }

  // PTRACE_SEIZE: attaches without stopping. False: gone, or busy(). Throws PERMISSION,
  // ALREADY_TRACED.
  bool seize(long options);
  // Its process calls execve(2) and cannot be seized until that is done. It may never be unless the
  // threads of it that this tracer has are reaped.
  bool busy() const { return busy_; }
  // Takes over a child that the kernel attached to this tracer (PTRACE_O_TRACECLONE).
  void adopt();
  // Asks the task to stop; wait() tells when it has. False: gone.
  bool interrupt();
  // The same for one that has taken the id of another task, whatever that did.
  void interrupt_anew();
  Stop wait(Deadline deadline);
  // A look without waiting: kTimeout if it runs.
  Stop poll();
  // Without a deadline, for tasks of our own that do stop.
  Stop wait_blocking();
  // Waits for the end of a task that was killed.
  void wait_gone();

  bool get_registers(arch::Registers* registers);
  bool set_registers(const arch::Registers& registers);
  // Extended state in the layout of NT_X86_XSTATE; empty if gone.
  std::vector<uint8_t> extended_state();
  // All of it, as extended_state() gives it.
  bool set_extended_state(std::span<const uint8_t> state);
  bool get_signal_mask(uint64_t* mask);
  bool set_signal_mask(uint64_t mask);
  bool set_options(long options);
  uint64_t event_message();
  // nullopt if it has none or the kernel does not tell.
  std::optional<RseqArea> rseq();
  // Whether signals wait for this task, not for its process.
  bool has_pending_signals();

  // Resume. False: gone.
  bool resume();
  bool resume_to_syscall();
  bool single_step();
  // Lets the task go, with the signal it was about to receive. False: it was killed. Then it has to
  // be waited for, or the tracer's claim on its zombie keeps its process from ending and from
  // execve.
  bool detach();
  // Its tracer is gone, and thereby it was let go.
  void abandon() { attached_ = stopped_ = false; }

 private:
  bool request(long request, long address, long data);
  Stop on_status(int status);

  pid_t tid_;
  bool attached_ = false;
  bool stopped_ = false;
  bool busy_ = false;
  // To be handed on when the task is resumed or let go.
  int signal_ = 0;
};

}  // namespace sluice
