// Whether a process can be dumped, and if not, why not. Looks only: the process is not touched.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace sluice {

struct TargetFacts {
  pid_t pid = 0;
  std::string name;
  uint64_t start_time_ticks = 0;  // with the pid, what tells it from any other process
  std::string state;              // one letter of proc_pid_stat(5); "" if there is no such process
  unsigned threads = 0;
  pid_t namespace_pid = 0;  // in its own pid namespace
  int seccomp_mode = 0;
  pid_t tracer_pid = 0;

  // "" if a dump may be tried, else one of
  //   PROC_MISMATCH       /proc belongs to another pid namespace than the caller
  //   NO_SUCH_PROCESS     also for the id of a thread that is not a process
  //   SELF                a task of the dumper, or one that shares its memory
  //   KERNEL_THREAD
  //   ZOMBIE              also with other threads alive: its address space is out of reach
  //   ANCESTOR            freezing it could freeze the dumper
  //   ALREADY_TRACED
  //   PERMISSION
  //   UNSUPPORTED_TARGET  not a 64-bit x86 program
  std::string refusal;
  std::string refusal_detail;
  // The system call behind the refusal, if any.
  std::string refusal_call;
  int refusal_errno = 0;
};

// Throws SYSTEM for what a live process cannot look like. Call it from a thread of the dumper, not
// from a tracer task, which would take the dumper's own process for a stranger.
TargetFacts target_facts(pid_t pid);

// Throws the refusal of target_facts as an Error.
TargetFacts require_dumpable(pid_t pid);

}  // namespace sluice
