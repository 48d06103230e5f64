// The end of all work in a target. DANGER: makes calls in one of its threads.
#pragma once

#include <string>
#include <vector>

#include "target/helper_remote.h"
#include "target/target_handle.h"

namespace sluice {

// Removes what ended helpers left, with a tracer task of its own. Never throws. Returns warnings
// about what stays, none for a process that is gone.
std::vector<std::string> remove_last_remains(const TargetHandle& target,
                                             std::vector<HelperRemains> remains);

}  // namespace sluice
