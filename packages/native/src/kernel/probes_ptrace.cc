// Probes of ptrace, on a child of our own. The child is never stopped, so that no SIGCHLD is sent.
#include <signal.h>
#include <sys/ptrace.h>

#include "kernel/abi.h"
#include "kernel/probe_child.h"
#include "kernel/probe_tools.h"
#include "kernel/probes.h"
#include "kernel/proc_file.h"
#include "kernel/proc_status.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

long seize_child(long options) {
  const ProbeChild child(sleep_in_child, nullptr);
  return sys::call(SYS_ptrace, PTRACE_SEIZE, child.pid(), 0, options);
}

// A child may be traced where a stranger may not.
std::string strangers_note() {
  const auto yama = read_kernel_file("/proc/sys/kernel/yama/ptrace_scope");
  const auto self = read_status(::getpid());
  if (self && self->has_capability(abi::kCapSysPtrace)) {
    return "";
  }
  if (yama && yama->starts_with('1')) {
    return "without CAP_SYS_PTRACE only for own descendants: /proc/sys/kernel/yama/ptrace_scope is "
           "1";
  }
  return "without CAP_SYS_PTRACE only for processes of the same user";
}

}  // namespace

Probe probe_ptrace_seize() {
  const long result = seize_child(0);
  if (result < 0) {
    return probe_failed("ptrace", result,
                        "look at /proc/sys/kernel/yama/ptrace_scope, and in a container at its "
                        "seccomp profile and for CAP_SYS_PTRACE");
  }
  return {true, strangers_note()};
}

Probe probe_suspend_seccomp() {
  const long result = seize_child(abi::kPtraceSuspendSeccomp);
  if (result < 0) {
    return probe_failed(
        "ptrace", result,
        "needs CAP_SYS_ADMIN, a caller without a seccomp filter, and a kernel with "
        "CONFIG_CHECKPOINT_RESTORE; targets with a seccomp filter are read instead");
  }
  return {true, ""};
}

}  // namespace sluice
