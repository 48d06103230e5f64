#include "kernel/probe_child.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/error.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

constexpr size_t kKernelSigsetBytes = 8;

long set_mask(const uint64_t* mask, uint64_t* before) {
  return sys::detail::raw(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<long>(mask),
                          reinterpret_cast<long>(before), kKernelSigsetBytes, 0, 0);
}

[[noreturn]] void run_in_child(pid_t parent, void (*body)(void*), void* argument) {
  ::syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  // If the parent died before that call, nobody is left to end this child.
  if (::syscall(SYS_getppid) == parent) {
    body(argument);
  }
  for (;;) {
    ::syscall(SYS_exit_group, 0);
  }
}

}  // namespace

ProbeChild::ProbeChild(void (*body)(void*), void* argument) {
  const pid_t parent = ::getpid();
  // A handler of this process must not run in the child: libuv's writes to a pipe that both share.
  const uint64_t all = ~uint64_t{0};
  uint64_t before = 0;
  set_mask(&all, &before);
  const long result = sys::call(SYS_clone, 0, nullptr, nullptr, nullptr, 0);
  if (result == 0) {
    run_in_child(parent, body, argument);
  }
  set_mask(&before, nullptr);
  if (result < 0) {
    throw Error("SYSTEM", 0, "clone", static_cast<int>(-result),
                "cannot start a child process; look at the limit on processes and at free memory");
  }
  pid_ = static_cast<pid_t>(result);
}

ProbeChild::~ProbeChild() {
  if (!reaped_) {
    ::kill(pid_, SIGKILL);
    finish();
  }
}

bool ProbeChild::finish() {
  int status = 0;
  long result;
  do {
    // Not through the seam: a fault here would leave the child behind.
    result = sys::detail::raw(SYS_wait4, pid_, reinterpret_cast<long>(&status), __WALL, 0, 0, 0);
    // A traced child also reports stops.
  } while (result == -EINTR || (result == pid_ && WIFSTOPPED(status)));
  reaped_ = true;
  return result == pid_ && WIFEXITED(status);
}

void sleep_in_child(void*) {
  for (;;) {
    ::syscall(SYS_pause);
  }
}

}  // namespace sluice
