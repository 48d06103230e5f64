// What must be as it was before a restore may change anything. These look and change nothing; each
// throws for the first thing that forbids it.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/page_range.h"
#include "restore/restore_plan.h"
#include "target/arch.h"
#include "target/freeze.h"

namespace sluice {

// A thread as the image has it.
struct WantedThread {
  pid_t tid = 0;
  arch::Registers registers{};
};

// No helper but `helper` is in it: that of another dumper has a mapping of its own, which would be
// removed. Throws ALREADY_TRACED.
void require_alone(pid_t pid, pid_t helper);

// Throws RESTORE_MISMATCH.
void require_same_threads(pid_t pid, const std::vector<WantedThread>& wanted,
                          const std::vector<pid_t>& tids);

// Registers are not restored, so a thread must stand where it stood, with what it keeps in
// registers; else it would go on with the stack of another function, or let the kernel write to
// another buffer. Throws RESTORE_MISMATCH.
void require_same_registers(pid_t pid, const std::vector<WantedThread>& wanted,
                            const std::vector<FrozenThread>& frozen);

// The plan has no mismatches. Throws RESTORE_MISMATCH.
void require_possible(pid_t pid, const RestorePlan& plan);

// Neither what the image has no bytes for, nor the code that the helper runs on, can be replaced.
// Throws RESTORE_MISMATCH.
void require_left_alone(pid_t pid, const RestorePlan& plan, const std::vector<PageRange>& left_out,
                        const arch::Gadgets& gadgets);

// What the image leaves to mapped files, having no page of its own there, is in them still. All
// lists ascending. Throws FILE_CHANGED.
void require_same_files(pid_t pid, const std::vector<WantedVma>& wanted,
                        const std::vector<PresentVma>& present,
                        const std::vector<PageRange>& stored);

}  // namespace sluice
