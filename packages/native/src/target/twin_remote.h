// The twin: a process with a copy-on-write copy of the target's memory, as it was when the twin was
// made. Nothing ever runs in it; its memory is read while the target goes on. What it does not
// have: mappings with MADV_DONTFORK, and the content of those with MADV_WIPEONFORK. Shared memory
// stays shared in it.
//
// While it lives, every page that the target writes to is copied first, and huge pages that it
// writes to are split.
#pragma once

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <vector>

#include "base/page_range.h"
#include "pages/page_scan.h"
#include "target/arch.h"
#include "target/helper_remote.h"
#include "target/target_memory.h"
#include "target/tracee.h"

namespace sluice {

class Twin {
 public:
  // The target must be frozen. To be called, and ended, by the tracer task that has the helper.
  // What the target will have to reap is added to `remains`, whatever comes of it. Throws INJECTION
  // if there can be none: a limit on processes (RLIMIT_NPROC, pids.max), no memory for its page
  // table.
  static std::shared_ptr<Twin> make(Helper* helper, pid_t target,
                                    std::vector<HelperRemains>* remains);

  pid_t pid() const { return tracee_.tid(); }
  const TargetMemory& memory() const { return *memory_; }
  // Whether it has a page that matches, as the target has there. A clone copies the page table of a
  // mapping wholly or, with MADV_DONTFORK or MADV_WIPEONFORK, not at all: so one page of a mapping
  // tells for all. From any thread.
  bool has(PageRange page, PageFilter filter);
  // Whether it stands still as it should; else it was killed.
  bool stands() const;
  // Should memory run out while the target writes, the kernel kills the twin first.
  void give_way();
  // Its zombie is left for the target to reap. Does nothing the second time.
  void end();

 private:
  Twin(pid_t pid, const arch::Registers& exit_registers)
      : tracee_(pid), exit_registers_(exit_registers) {
    tracee_.adopt();
  }

  Tracee tracee_;
  arch::Registers exit_registers_;
  // Opened by its tracer, who may where others may not (ptrace_scope of Yama).
  std::unique_ptr<TargetMemory> memory_;
  std::mutex scanning_;
  std::unique_ptr<PageScan> scan_;
};

}  // namespace sluice
