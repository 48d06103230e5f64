#include "kernel/memory_users.h"

#include <dirent.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>

#include "kernel/proc_file.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

// What has ended has none, and shares that with all zombies and kernel threads.
bool has_memory(pid_t pid) {
  const auto pages = read_proc_file(pid, "statm");
  return pages && !pages->starts_with("0 ");
}

}  // namespace

std::vector<pid_t> memory_users(pid_t pid) {
  std::vector<pid_t> users;
  const ScopedDir proc(::opendir("/proc"));
  for (const uint32_t number : numbers_in(proc.get())) {
    const auto other = static_cast<pid_t>(number);
    if (other != pid && sys::call(SYS_kcmp, pid, other, KCMP_VM, 0, 0) == 0) {
      users.push_back(other);
    }
  }
  // Asked at the end: memory that is gone does not come back.
  return has_memory(pid) ? users : std::vector<pid_t>{};
}

}  // namespace sluice
