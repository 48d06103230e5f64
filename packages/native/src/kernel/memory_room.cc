#include "kernel/memory_room.h"

#include "kernel/control_group.h"
#include "kernel/proc_file.h"

namespace sluice {
namespace {

// What is limited, by how much, and how much of it is in use. A limit that is none reads "max", or
// as a number that is never reached.
struct LimitFiles {
  const char* limit;
  const char* usage;
};
constexpr LimitFiles kVersion1[] = {
    {"memory.limit_in_bytes", "memory.usage_in_bytes"},
    {"memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"},
};
// At memory.high nothing is killed, but what runs there is made to sleep.
constexpr LimitFiles kVersion2[] = {
    {"memory.max", "memory.current"},
    {"memory.high", "memory.current"},
};
constexpr uint64_t kNoLimit = uint64_t{1} << 60;

std::optional<uint64_t> read_bytes(const std::string& path) {
  const auto text = read_kernel_file(path);
  uint64_t value = 0;
  if (!text || !TextCursor(*text).take_decimal(value)) {
    return std::nullopt;
  }
  return value;
}

// File pages that were not used again; their number is there for the group and all below it.
uint64_t reclaimable_bytes(const std::string& directory, bool version1) {
  const auto text = read_kernel_file(directory + "/memory.stat");
  const std::string_view name = version1 ? "total_inactive_file" : "inactive_file";
  TextCursor cursor(text ? std::string_view(*text) : std::string_view());
  for (std::string_view line; cursor.take_line(line);) {
    uint64_t bytes = 0;
    if (line.starts_with(name) && line.size() > name.size() && line[name.size()] == ' ' &&
        TextCursor(line.substr(name.size() + 1)).take_decimal(bytes)) {
      return bytes;
    }
  }
  return 0;
}

}  // namespace

std::optional<MemoryRoom> memory_room(pid_t pid) {
  const auto group = control_group_of(pid, "memory");
  std::optional<MemoryRoom> least;
  if (!group) {
    return least;
  }
  for (const std::string& at : group->with_those_above()) {
    for (const LimitFiles& files : group->version1 ? kVersion1 : kVersion2) {
      const auto limit = read_bytes(at + "/" + files.limit);
      const auto usage = read_bytes(at + "/" + files.usage);
      if (!limit || !usage || *limit >= kNoLimit) {
        continue;
      }
      const uint64_t free =
          (*limit > *usage ? *limit - *usage : 0) + reclaimable_bytes(at, group->version1);
      if (!least || free < least->bytes) {
        least = MemoryRoom{free, at + "/" + files.limit};
      }
    }
  }
  return least;
}

}  // namespace sluice
