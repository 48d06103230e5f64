// One dump or restore of a process at a time, over all programs that use Sluice. Tracing does not
// see to that: between attaching and the freeze nobody traces the process, and of two dumps that
// watch it each would take marks of written pages from the other.
#pragma once

#include <sys/types.h>

#include "base/scoped_fd.h"

namespace sluice {

// Claims a process until the descriptor is closed, or the dumper is dead. It is a lock (flock(2))
// on a file in /proc/PID that only those can open who may trace the process. Waits a quarter of a
// second for another claim to end. Throws ALREADY_TRACED, PERMISSION, NO_SUCH_PROCESS.
ScopedFd claim_target(pid_t pid);

}  // namespace sluice
