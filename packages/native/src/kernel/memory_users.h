// Who else runs in the memory of a process.
#pragma once

#include <sys/types.h>

#include <vector>

namespace sluice {

// Processes besides a live `pid` that have its memory for theirs (clone(2), CLONE_VM), ascending:
// of all that this caller may look at, on a kernel that has kcmp(2). None of one whose main thread
// has ended.
std::vector<pid_t> memory_users(pid_t pid);

}  // namespace sluice
