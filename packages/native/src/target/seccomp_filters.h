// What the seccomp filters of a thread would do with a system call, reckoned without making it.
//
// A tracer suspends them for the calls that it injects (PTRACE_O_SUSPEND_SECCOMP). If it dies
// between the entry of such a call and the kernel's look at the filters, they judge the call after
// all. So a call is only injected where that would do no harm.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <cstdint>
#include <span>
#include <vector>

#include "target/tracee.h"

namespace sluice {

class SeccompFilters {
 public:
  // Of a stopped tracee; `mode` is what its status says (proc_pid_status(5)): 0 none, 1 strict, 2
  // filters. Throws INJECTION if the kernel does not give them (PTRACE_SECCOMP_GET_FILTER).
  SeccompFilters(Tracee* tracee, int mode);

  // The call is made.
  bool allows(const seccomp_data& call) const;
  // The call is made, or fails; its thread is neither killed nor gets a signal, and nobody else is
  // asked.
  bool harmless(const seccomp_data& call) const;

 private:
  bool each_says(const seccomp_data& call, std::span<const uint32_t> actions) const;

  bool strict_ = false;
  std::vector<std::vector<sock_filter>> programs_;
};

// What one filter returns for a call; SECCOMP_RET_KILL_PROCESS if it is none that the kernel would
// take. Pure.
uint32_t run_seccomp_filter(std::span<const sock_filter> program, const seccomp_data& call);

}  // namespace sluice
