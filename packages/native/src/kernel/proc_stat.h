// /proc/PID/stat: what tells one process from a later one with the same pid, and a little more.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

// Fields 26 to 28 and 45 to 51; 0, or 1, where the caller may not trace the process.
struct ProcAddresses {
  uint64_t start_code = 0;
  uint64_t end_code = 0;
  uint64_t start_stack = 0;
  uint64_t start_data = 0;
  uint64_t end_data = 0;
  uint64_t start_break = 0;  // where the area that brk(2) moves begins
  uint64_t arguments_start = 0;
  uint64_t arguments_end = 0;
  uint64_t environment_start = 0;
  uint64_t environment_end = 0;
};

struct ProcStat {
  pid_t pid = 0;
  std::string comm;  // not escaped: may hold blanks, ')' and newlines
  char state = '?';
  pid_t ppid = 0;
  pid_t process_group = 0;  // 0 for one outside the reader's pid namespace
  pid_t session_leader = 0;
  uint64_t flags = 0;  // PF_* of the kernel
  int nice = 0;        // -20 to 19
  unsigned num_threads = 0;
  uint64_t start_time_ticks = 0;  // after boot, field 22
  ProcAddresses addresses;
  // Of a zombie: the signal that told its parent, and its status as wait(2) gives it (0 where the
  // caller may not trace it). Fields 38 and 52; -1 on a kernel that prints fewer.
  int exit_signal = -1;
  int exit_code = -1;

  bool is_kernel_thread() const { return (flags & 0x00200000) != 0; }           // PF_KTHREAD
  bool is_exiting() const { return (flags & 0x00000004) != 0 || is_zombie(); }  // PF_EXITING
  bool is_zombie() const { return state == 'Z' || state == 'X'; }
};

// Throws SYSTEM when malformed.
ProcStat parse_stat(std::string_view text);

// nullopt: gone.
std::optional<ProcStat> read_stat(pid_t pid);

}  // namespace sluice
