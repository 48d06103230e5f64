// Bytes of the target, read and written from outside. Opens /proc/PID/mem, which reaches mappings
// whatever their protection; process_vm_readv(2) is faster and obeys the protection.
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
  // Writes where the target itself may write. True if all bytes went.
  bool write(RemotePtr to, const void* from, size_t bytes) const;

 private:
  pid_t pid_;
  ScopedFd mem_;
};

}  // namespace sluice
