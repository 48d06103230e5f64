// The control group (cgroups(7)) of a process, as far as it can be seen from here.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct ControlGroup {
  std::string directory;
  std::string top;  // above all that can be seen
  bool version1 = false;

  // From its own directory to the one on top.
  std::vector<std::string> with_those_above() const;
};

// That of the hierarchy of version 1 that has the controller, or else that of version 2; this also
// for no controller (""). nullopt if it cannot be seen.
std::optional<ControlGroup> control_group_of(pid_t pid, std::string_view controller);

// The same from /proc/PID/cgroup and /proc/self/mountinfo; pure.
std::optional<ControlGroup> find_control_group(std::string_view groups, std::string_view mounts,
                                               std::string_view controller);

// The group, its own or one above, that is frozen with all that is in it. One of version 1 keeps
// tracers out. In one of version 2 a tracer can stop threads and read, but none of them executes
// anything.
std::optional<ControlGroup> frozen_group(pid_t pid);

}  // namespace sluice
