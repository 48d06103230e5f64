// The end of all work in a target. DANGER: makes calls in one of its threads.
#pragma once

#include <string>
#include <vector>

#include "target/helper_remote.h"
#include "target/target_handle.h"

namespace sluice {

// Removes what ended helpers left, with a tracer task of its own; and if some ended in a way that
// nobody knows, what can be found of them (`search`). Never throws. Returns warnings about what
// stays, none for a process that is gone.
std::vector<std::string> remove_last_remains(const TargetHandle& target,
                                             std::vector<HelperRemains> remains,
                                             bool search = false);

struct Cleaned {
  // What was found.
  size_t mappings = 0;
  size_t zombies = 0;
  // What could not be removed, and why.
  std::vector<std::string> left;
};

// Removes what a dumper that was killed left in a process, with a tracer task of its own. One in
// which nothing is left is not touched. Throws what require_dumpable() and TargetHandle::claim()
// do.
Cleaned clean_target(pid_t pid);

}  // namespace sluice
