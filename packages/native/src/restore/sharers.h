// Other processes that see what a restore writes.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/page_range.h"
#include "restore/restore_plan.h"

namespace sluice {

// No process but `pid` and its `helper` runs in its memory, or maps shared memory or a file that
// pages of the image are written to. Looks at all processes that this caller may look at. Throws
// RESTORE_MISMATCH.
void require_unshared(pid_t pid, pid_t helper, const std::vector<WantedVma>& wanted,
                      const std::vector<PageRange>& stored);

}  // namespace sluice
