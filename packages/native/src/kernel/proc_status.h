// /proc/PID/status, of a process or of a thread.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Of users or of groups.
struct ProcIds {
  uint32_t real = 0;
  uint32_t effective = 0;
  uint32_t saved = 0;
  uint32_t filesystem = 0;

  bool operator==(const ProcIds&) const = default;
};

struct ProcStatus {
  std::string name;  // decoded: may hold newlines
  char state = '?';  // R, S, D, T, t, Z, X, I, as in proc_pid_stat(5)
  pid_t tgid = 0;
  pid_t pid = 0;
  pid_t ppid = 0;
  pid_t tracer_pid = 0;  // 0 for none, and for one in a pid namespace that is hidden from us
  ProcIds uids;
  ProcIds gids;
  std::vector<gid_t> groups;  // supplementary
  uint32_t umask = 0;         // 0 of a zombie as well
  // This process in each pid namespace from the reader's inwards; the last is the pid in its own.
  // Just {pid} on a kernel that does not tell.
  std::vector<pid_t> ns_pids;
  uint64_t rss_kb = 0;  // 0 for kernel threads and zombies
  // Of it, memory that is the process's own; and what of that is swapped out.
  uint64_t rss_anon_kb = 0;
  uint64_t swap_kb = 0;
  uint64_t page_tables_kb = 0;
  unsigned threads = 0;
  int seccomp_mode = 0;  // 0 off, 1 strict, 2 filter
  bool no_new_privs = false;
  uint64_t cap_inh = 0;
  uint64_t cap_prm = 0;
  uint64_t cap_eff = 0;
  uint64_t cap_bnd = 0;
  uint64_t cap_amb = 0;
  // Signals that wait, number n as bit n - 1: for this task, and for the process.
  uint64_t pending = 0;
  uint64_t process_pending = 0;
  // The same of those that this task blocks, and that the process ignores or has handlers for.
  uint64_t blocked = 0;
  uint64_t ignored = 0;
  uint64_t caught = 0;
  // How often the task gave up the processor by itself.
  uint64_t voluntary_switches = 0;
  // From the `Kthread:` line (Linux 6.6); without it ask ProcStat::is_kernel_thread.
  std::optional<bool> kernel_thread;

  bool is_killed() const { return (pending >> (SIGKILL - 1) & 1) != 0; }
  bool is_process_killed() const { return (process_pending >> (SIGKILL - 1) & 1) != 0; }
  bool is_zombie() const { return state == 'Z' || state == 'X'; }
  bool has_capability(unsigned number) const { return (cap_eff >> number & 1) != 0; }
};

// Throws SYSTEM when malformed, or when one of the lines that every kernel has is missing.
ProcStatus parse_status(std::string_view text);

// nullopt: gone. A thread id works too, and tells of that thread.
std::optional<ProcStatus> read_status(pid_t pid);

// Of thread `tid` of `pid`; nullopt: gone, or not a thread of that process.
std::optional<ProcStatus> read_thread_status(pid_t pid, pid_t tid);

}  // namespace sluice
