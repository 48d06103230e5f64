// Bytes of the target, read and written from outside. Opens /proc/PID/mem, which reaches mappings
// whatever their protection (process_vm_readv(2) is faster and obeys it), and which stays with the
// address space it was opened on.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>
#include <span>

#include "base/remote_ptr.h"
#include "base/scoped_fd.h"

namespace sluice {

class TargetMemory {
 public:
  // Throws NO_SUCH_PROCESS, PERMISSION.
  explicit TargetMemory(pid_t pid);

  pid_t pid() const { return pid_; }
  // Reads whatever the protection. True if all bytes came.
  bool read(RemotePtr from, void* to, size_t bytes) const;
  // The same, in the kernel's style: bytes read or negative errno.
  long try_read(RemotePtr from, void* to, size_t bytes) const;
  // Writes where the target itself may write. True if all bytes went. `task` is a stopped thread or
  // a helper, which has the address space that is meant: the process of that pid may have replaced
  // its own by execve.
  static bool write(pid_t task, RemotePtr to, const void* from, size_t bytes);

 private:
  pid_t pid_;
  ScopedFd mem_;
};

}  // namespace sluice
