#include "target/claim.h"

#include <sys/file.h>

#include <cerrno>

#include "base/error.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"

namespace sluice {

ScopedFd claim_target(pid_t pid) {
  ScopedFd fd = open_pagemap(pid);
  const long result = sys::call_restarting(SYS_flock, fd.get(), LOCK_EX | LOCK_NB);
  if (result == -EWOULDBLOCK) {
    throw Error("ALREADY_TRACED", pid, "flock", EWOULDBLOCK,
                "another dump or restore of it is under way");
  }
  if (result < 0) {
    throw Error("SYSTEM", pid, "flock", static_cast<int>(-result),
                "it cannot be kept from being dumped twice at a time");
  }
  return fd;
}

}  // namespace sluice
