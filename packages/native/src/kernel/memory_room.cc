#include "kernel/memory_room.h"

#include <algorithm>
#include <vector>

#include "kernel/proc_file.h"

namespace sluice {
namespace {

constexpr char kController[] = "memory";

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

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(at + 1);
  }
}

bool contains(const std::vector<std::string_view>& parts, std::string_view wanted) {
  return std::find(parts.begin(), parts.end(), wanted) != parts.end();
}

// Where `path` of a hierarchy can be seen: below the mount of that hierarchy, if its root is above.
std::optional<MemoryGroup> find_mounted(std::string_view mounts, bool version1,
                                        std::string_view path) {
  TextCursor cursor(mounts);
  for (std::string_view line; cursor.take_line(line);) {
    const auto fields = split(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 6 || fields.end() - dash < 4 ||
        dash[1] != (version1 ? "cgroup" : "cgroup2") ||
        (version1 && !contains(split(dash[3], ','), kController))) {
      continue;
    }
    const std::string_view root = fields[3] == "/" ? "" : fields[3];
    if (!path.starts_with(root) || (path.size() > root.size() && path[root.size()] != '/') ||
        path.find("/..") != std::string_view::npos) {
      continue;
    }
    const std::string_view below = path.substr(root.size());
    const std::string top(fields[4]);
    return MemoryGroup{top + std::string(below == "/" ? "" : below), top, version1};
  }
  return std::nullopt;
}

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

std::optional<MemoryGroup> find_memory_group(std::string_view groups, std::string_view mounts) {
  std::optional<MemoryGroup> unified;
  TextCursor cursor(groups);
  for (std::string_view line; cursor.take_line(line);) {
    // ID:CONTROLLERS:PATH
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string_view::npos || second == std::string_view::npos) {
      continue;
    }
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const std::string_view path = line.substr(second + 1);
    if (contains(split(controllers, ','), kController)) {
      return find_mounted(mounts, true, path);
    }
    if (controllers.empty()) {
      unified = find_mounted(mounts, false, path);
    }
  }
  return unified;
}

std::optional<MemoryRoom> memory_room(pid_t pid) {
  const auto groups = read_proc_file(pid, "cgroup");
  const auto mounts = read_kernel_file("/proc/self/mountinfo");
  const auto group = find_memory_group(groups.value_or(""), mounts.value_or(""));
  std::optional<MemoryRoom> least;
  if (!group) {
    return least;
  }
  for (std::string at = group->directory; at.size() >= group->top.size();
       at.resize(at.find_last_of('/'))) {
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
