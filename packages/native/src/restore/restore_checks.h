// What must be as it was before a restore may change anything, and what must have become of it.
// These look and change nothing; each throws for the first thing that forbids it.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/page_range.h"
#include "restore/restore_plan.h"
#include "target/arch.h"

namespace sluice {

// No helper but `helper` is in it: that of another dumper has a mapping of its own, which would be
// removed. Throws ALREADY_TRACED.
void require_alone(pid_t pid, pid_t helper);

// The plan has no mismatches. Throws RESTORE_MISMATCH.
void require_possible(pid_t pid, const RestorePlan& plan);

// Neither what the image has no bytes for, nor the code that the helper runs on, can be replaced.
// Throws RESTORE_MISMATCH.
void require_left_alone(pid_t pid, const RestorePlan& plan, const std::vector<PageRange>& left_out,
                        const arch::Gadgets& gadgets);

// What the image leaves to mapped files, having no page of its own there, is in them still. All
// lists ascending. Throws FILE_CHANGED; RESTORE_MISMATCH for one that may not be asked for.
void require_same_files(pid_t pid, const std::vector<WantedVma>& wanted,
                        const std::vector<PresentVma>& present,
                        const std::vector<PageRange>& stored, MappedFiles* files, Ask ask);

// Afterwards: the kernel did what it was asked to. Throws SYSTEM.
void require_mapped(pid_t pid, const std::vector<Mapping>& present,
                    const std::vector<WantedVma>& wanted, HeapBounds heap);

}  // namespace sluice
