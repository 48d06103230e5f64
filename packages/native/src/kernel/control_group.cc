#include "kernel/control_group.h"

#include <algorithm>

#include "kernel/proc_file.h"

namespace sluice {
namespace {

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
std::optional<ControlGroup> find_mounted(std::string_view mounts, std::string_view path,
                                         std::string_view controller) {
  const bool version1 = !controller.empty();
  TextCursor cursor(mounts);
  for (std::string_view line; cursor.take_line(line);) {
    const auto fields = split(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 6 || fields.end() - dash < 4 ||
        dash[1] != (version1 ? "cgroup" : "cgroup2") ||
        (version1 && !contains(split(dash[3], ','), controller))) {
      continue;
    }
    const std::string_view root = fields[3] == "/" ? "" : fields[3];
    if (!path.starts_with(root) || (path.size() > root.size() && path[root.size()] != '/') ||
        path.find("/..") != std::string_view::npos) {
      continue;
    }
    const std::string_view below = path.substr(root.size());
    const std::string top(fields[4]);
    return ControlGroup{top + std::string(below == "/" ? "" : below), top, version1};
  }
  return std::nullopt;
}

}  // namespace

std::vector<std::string> ControlGroup::with_those_above() const {
  std::vector<std::string> directories;
  for (std::string at = directory; at.size() >= top.size(); at.resize(at.find_last_of('/'))) {
    directories.push_back(at);
  }
  return directories;
}

std::optional<ControlGroup> find_control_group(std::string_view groups, std::string_view mounts,
                                               std::string_view controller) {
  std::optional<ControlGroup> unified;
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
    if (controllers.empty()) {
      unified = find_mounted(mounts, path, "");
    } else if (contains(split(controllers, ','), controller)) {
      return find_mounted(mounts, path, controller);
    }
  }
  return unified;
}

std::optional<ControlGroup> control_group_of(pid_t pid, std::string_view controller) {
  const auto groups = read_proc_file(pid, "cgroup");
  const auto mounts = read_kernel_file("/proc/self/mountinfo");
  return find_control_group(groups.value_or(""), mounts.value_or(""), controller);
}

std::optional<ControlGroup> frozen_group(pid_t pid) {
  const auto groups = read_proc_file(pid, "cgroup").value_or("");
  const auto mounts = read_kernel_file("/proc/self/mountinfo").value_or("");
  for (const char* const controller : {"freezer", ""}) {
    const auto group = find_control_group(groups, mounts, controller);
    for (const std::string& at : group ? group->with_those_above() : std::vector<std::string>{}) {
      const auto state =
          read_kernel_file(at + (group->version1 ? "/freezer.state" : "/cgroup.freeze"));
      if (state == (group->version1 ? "FROZEN\n" : "1\n")) {
        return ControlGroup{at, group->top, group->version1};
      }
    }
  }
  return std::nullopt;
}

}  // namespace sluice
