#include "target/tracee.h"

#include <elf.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include <cerrno>

#include "base/error.h"
#include "kernel/proc_status.h"
#include "kernel/steps.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

constexpr int kEagerLooks = 2000;
constexpr timespec kPause{0, 100'000};

constexpr int kSeizeTries = 3;
// A seize takes microseconds, unless an execve keeps it waiting.
constexpr suseconds_t kSeizeLimitUs = 2000;

// For a task that was killed to be a zombie. Long if it shares its end with others (a core dump).
constexpr std::chrono::milliseconds kDyingLimit{100};

// As wait(2) begins the status of a task that is stopped.
constexpr int kStopped = 0x7f;

// Enough for every state component known today, with AMX 11 KiB.
constexpr size_t kMostXstateBytes = 16384;

[[noreturn]] void throw_refused(pid_t tid, int err) {
  const auto status = read_status(tid);
  if (status && status->tracer_pid != 0) {
    throw Error("ALREADY_TRACED", tid, "ptrace", err,
                "process " + std::to_string(status->tracer_pid) + " traces it already");
  }
  throw Error("PERMISSION", tid, "ptrace", err, "the kernel refuses to let it be traced");
}

// The kernel lets a seize wait without limit for an execve, which in turn may wait for us to reap
// what it killed. Only a signal ends that, and after its handler the kernel would make the call
// again. The tracer task has timer and handler for itself.
class SeizeLimit {
 public:
  SeizeLimit() {
    struct sigaction action{};
    action.sa_sigaction = [](int, siginfo_t*, void* context) {
      arch::refuse_call_being_made(context, SYS_ptrace, PTRACE_SEIZE, EINTR);
    };
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaction(SIGALRM, &action, nullptr);
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    pthread_sigmask(SIG_UNBLOCK, &alarm, nullptr);
    set(kSeizeLimitUs);
  }
  ~SeizeLimit() { set(0); }
  SeizeLimit(const SeizeLimit&) = delete;
  SeizeLimit& operator=(const SeizeLimit&) = delete;

 private:
  // Again and again: the first may come before the call is made.
  static void set(suseconds_t us) {
    const itimerval every{{0, us}, {0, us}};
    setitimer(ITIMER_REAL, &every, nullptr);
  }
};

long seize_within_limit(pid_t tid, long options) {
  const SeizeLimit limit;
  return sys::call(SYS_ptrace, PTRACE_SEIZE, tid, 0, options);
}

}  // namespace

void LookPacer::pause() {
  ++looks_;
  if (slow()) {
    nanosleep(&kPause, nullptr);
  } else {
    sched_yield();
  }
}

bool LookPacer::slow() const { return looks_ >= kEagerLooks; }

Tracee::~Tracee() {
  if (attached_ && stopped_ && !detach()) {
    wait(Clock::now() + kDyingLimit);
  }
}

Tracee::Tracee(Tracee&& other) noexcept
    : tid_(other.tid_),
      attached_(std::exchange(other.attached_, false)),
      stopped_(std::exchange(other.stopped_, false)),
      signal_(other.signal_) {}

bool Tracee::request(long request, long address, long data) {
  return sys::call(SYS_ptrace, request, tid_, address, data) >= 0;
}

bool Tracee::seize(long options) {
  for (int tries = 0;; ++tries) {
    const long result = seize_within_limit(tid_, options);
    busy_ = result == -EINTR;
    if (result >= 0) {
      attached_ = true;
      return true;
    }
    if (result == -ESRCH || busy_) {
      return false;
    }
    const auto status = read_status(tid_);
    if (!status || status->is_zombie()) {
      return false;
    }
    // Refused as a zombie, it may live again by now: execve gives the id of the main thread to
    // another one.
    if (status->tracer_pid != 0 || tries == kSeizeTries) {
      throw_refused(tid_, static_cast<int>(-result));
    }
  }
}

void Tracee::adopt() { attached_ = true; }

bool Tracee::interrupt() { return request(PTRACE_INTERRUPT, 0, 0); }

void Tracee::interrupt_anew() {
  stopped_ = false;
  interrupt();
}

Stop Tracee::on_status(int status) {
  if (WIFEXITED(status) || WIFSIGNALED(status)) {
    attached_ = false;
    stopped_ = false;
    return Stop::kGone;
  }
  stopped_ = true;
  const int stop_signal = WSTOPSIG(status);
  switch (status >> 16) {
    case PTRACE_EVENT_STOP:
      return Stop::kEvent;
    case PTRACE_EVENT_CLONE:
      return Stop::kClone;
    default:
      break;
  }
  if (stop_signal == (SIGTRAP | 0x80)) {
    return Stop::kSyscall;
  }
  signal_ = stop_signal;
  return Stop::kSignal;
}

// A stop before a signal is looked at and not waited for: once that is done, the kernel forgets the
// signal if the tracer dies before it hands that on.
Stop Tracee::poll() {
  siginfo_t seen{};
  const long looked = sys::call_restarting(
      SYS_waitid, P_PID, tid_, &seen, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL, nullptr);
  if (looked == 0 && seen.si_pid == 0) {
    return Stop::kTimeout;
  }
  if (seen.si_pid == tid_ && seen.si_code == CLD_TRAPPED &&
      on_status(seen.si_status << 8 | kStopped) == Stop::kSignal) {
    steps::at(steps::Step::kSignalSeen);
    return Stop::kSignal;
  }
  int status = 0;
  const long result = sys::call_restarting(SYS_wait4, tid_, &status, __WALL | WNOHANG, nullptr);
  if (result == tid_) {
    return on_status(status);
  }
  if (result < 0) {
    attached_ = false;
    return Stop::kGone;
  }
  return Stop::kTimeout;
}

Stop Tracee::wait(Deadline deadline) {
  LookPacer pacer;
  for (;;) {
    const Stop stop = poll();
    if (stop != Stop::kTimeout || Clock::now() >= deadline) {
      return stop;
    }
    pacer.pause();
  }
}

Stop Tracee::wait_blocking() {
  int status = 0;
  if (sys::call_restarting(SYS_wait4, tid_, &status, __WALL, nullptr) != tid_) {
    attached_ = false;
    stopped_ = false;
    return Stop::kGone;
  }
  return on_status(status);
}

void Tracee::wait_gone() {
  while (wait_blocking() != Stop::kGone) {
  }
}

bool Tracee::get_registers(arch::Registers* registers) {
  iovec vector{registers, sizeof *registers};
  return request(PTRACE_GETREGSET, NT_PRSTATUS, reinterpret_cast<long>(&vector));
}

bool Tracee::set_registers(const arch::Registers& registers) {
  arch::Registers copy = registers;
  iovec vector{&copy, sizeof copy};
  return request(PTRACE_SETREGSET, NT_PRSTATUS, reinterpret_cast<long>(&vector));
}

std::vector<uint8_t> Tracee::extended_state() {
  // Not zeroed, and returned as no more than there is: of each thread while all stand still.
  uint8_t state[kMostXstateBytes];
  iovec vector{state, sizeof state};
  if (!request(PTRACE_GETREGSET, NT_X86_XSTATE, reinterpret_cast<long>(&vector))) {
    return {};
  }
  return {state, state + vector.iov_len};
}

bool Tracee::set_extended_state(std::span<const uint8_t> state) {
  std::vector<uint8_t> copy(state.begin(), state.end());
  iovec vector{copy.data(), copy.size()};
  return request(PTRACE_SETREGSET, NT_X86_XSTATE, reinterpret_cast<long>(&vector));
}

bool Tracee::get_signal_mask(uint64_t* mask) {
  return request(PTRACE_GETSIGMASK, sizeof *mask, reinterpret_cast<long>(mask));
}

bool Tracee::set_signal_mask(uint64_t mask) {
  return request(PTRACE_SETSIGMASK, sizeof mask, reinterpret_cast<long>(&mask));
}

bool Tracee::set_options(long options) { return request(PTRACE_SETOPTIONS, 0, options); }

uint64_t Tracee::event_message() {
  unsigned long message = 0;
  request(PTRACE_GETEVENTMSG, 0, reinterpret_cast<long>(&message));
  return message;
}

std::optional<RseqArea> Tracee::rseq() {
  ptrace_rseq_configuration configuration{};
  if (!request(PTRACE_GET_RSEQ_CONFIGURATION, sizeof configuration,
               reinterpret_cast<long>(&configuration)) ||
      configuration.rseq_abi_pointer == 0) {
    return std::nullopt;
  }
  return RseqArea{configuration.rseq_abi_pointer, configuration.rseq_abi_size,
                  configuration.signature};
}

bool Tracee::has_pending_signals() {
  const ptrace_peeksiginfo_args first{0, 0, 1};
  siginfo_t info{};
  return sys::call(SYS_ptrace, PTRACE_PEEKSIGINFO, tid_, &first, &info) > 0;
}

bool Tracee::resume() {
  stopped_ = false;
  return request(PTRACE_CONT, 0, std::exchange(signal_, 0));
}

bool Tracee::resume_to_syscall() {
  stopped_ = false;
  return request(PTRACE_SYSCALL, 0, std::exchange(signal_, 0));
}

bool Tracee::single_step() {
  stopped_ = false;
  return request(PTRACE_SINGLESTEP, 0, std::exchange(signal_, 0));
}

bool Tracee::detach() {
  stopped_ = false;
  attached_ = !request(PTRACE_DETACH, 0, std::exchange(signal_, 0));
  return !attached_;
}

}  // namespace sluice
