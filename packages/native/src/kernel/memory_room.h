// How much memory a process may still use before a limit of its control group is reached. There the
// kernel kills it, whoever it was that used the last page; so whatever is put into a process must
// fit, and an allocation that fails is no way to find out.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

struct MemoryRoom {
  uint64_t bytes = 0;
  std::string limit;  // file that sets it
};

// The least that its control group and those above it leave (memory.max and memory.high of
// version 2, memory.limit_in_bytes of version 1, without what is only file cache that nobody used
// again). nullopt if nothing limits it, or nothing that can be seen from here.
std::optional<MemoryRoom> memory_room(pid_t pid);

// Where the control group of a process that limits its memory is: its directory and the one above
// all that can be seen. `groups` is /proc/PID/cgroup, `mounts` /proc/self/mountinfo.
struct MemoryGroup {
  std::string directory;
  std::string top;
  bool version1 = false;

  bool operator==(const MemoryGroup&) const = default;
};
std::optional<MemoryGroup> find_memory_group(std::string_view groups, std::string_view mounts);

}  // namespace sluice
