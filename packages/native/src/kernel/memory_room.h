// How much memory a process may still use before a limit of its control group is reached. There the
// kernel kills it, whoever it was that used the last page; so whatever is put into a process must
// fit, and an allocation that fails is no way to find out.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace sluice {

struct MemoryRoom {
  uint64_t bytes = 0;
  std::string limit;  // file that sets it
};

// The least that its control group and those above it leave (memory.max and memory.high of
// version 2, memory.limit_in_bytes of version 1, without what is only file cache that nobody used
// again). nullopt if nothing limits it, or nothing that can be seen from here.
std::optional<MemoryRoom> memory_room(pid_t pid);

}  // namespace sluice
