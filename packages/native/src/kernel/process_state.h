// What the kernel keeps of a process beside its memory and its threads.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernel/proc_descriptors.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"

namespace sluice {

struct ResourceLimit {
  const char* name = "";  // as in getrlimit(2), without RLIMIT_
  uint64_t soft = 0;
  uint64_t hard = 0;
};

struct ProcessState {
  ProcStatus status;
  ProcStat stat;
  std::vector<ResourceLimit> limits;  // none where they may not be looked at
};

// Quick enough for a process that stands still: two files of /proc and prlimit(2). nullopt: gone,
// or not readable.
std::optional<ProcessState> read_process_state(pid_t pid);

struct ProcessFiles {
  // As the links of /proc/PID show them to this process; empty if they cannot be read.
  std::string working_directory;
  std::string root;
  std::vector<OpenDescriptor> descriptors;
};

// With those of the descriptors that are open, which takes some microseconds each. Of a process
// that is gone: nothing.
ProcessFiles read_process_files(pid_t pid, const std::vector<uint32_t>& descriptors);
// Those that it has not, as far as a manifest should hold them.
void add_descriptors(pid_t pid, ProcessFiles* files);

}  // namespace sluice
