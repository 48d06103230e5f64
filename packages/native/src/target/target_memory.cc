#include "target/target_memory.h"

#include <fcntl.h>

#include "base/error.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"

namespace sluice {

TargetMemory::TargetMemory(pid_t pid) : pid_(pid) {
  const long fd =
      sys::call(SYS_openat, AT_FDCWD, proc_path(pid, "mem").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd == -ENOENT || fd == -ESRCH) {
    throw Error("NO_SUCH_PROCESS", pid, "openat", static_cast<int>(-fd), "the process is gone");
  }
  if (fd < 0) {
    throw Error("PERMISSION", pid, "openat", static_cast<int>(-fd),
                "its memory may not be read by this user");
  }
  mem_.reset(static_cast<int>(fd));
}

long TargetMemory::try_read(RemotePtr from, void* to, size_t bytes) const {
  return sys::call_restarting(SYS_pread64, mem_.get(), to, bytes, from.value());
}

bool TargetMemory::read(RemotePtr from, void* to, size_t bytes) const {
  return try_read(from, to, bytes) == static_cast<long>(bytes);
}

bool TargetMemory::write(pid_t task, RemotePtr to, const void* from, size_t bytes) {
  const iovec local{const_cast<void*>(from), bytes};
  const iovec remote{reinterpret_cast<void*>(to.value()), bytes};
  return sys::call(SYS_process_vm_writev, task, &local, 1, &remote, 1, 0) ==
         static_cast<long>(bytes);
}

}  // namespace sluice
