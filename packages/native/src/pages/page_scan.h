// Which pages of a range exist. One contract, two ways: the ioctl PAGEMAP_SCAN (Linux 6.7), and
// reading /proc/PID/pagemap on kernels without it.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <vector>

#include "base/page_range.h"
#include "base/scoped_fd.h"

namespace sluice {

enum class PageFilter {
  // Pages of private mappings that only the process has: present or swapped, not the zero page,
  // not pages of the file.
  kOwn,
  // The same in a mapping without a file, where no page can be the file's: then nobody need look
  // behind the entries of the page table, which takes most of the time.
  kAnonymous,
  // Everything that is mapped.
  kPresent,
};

class PageScan {
 public:
  virtual ~PageScan() = default;
  // Calls `found` with the runs of matching pages in `range`, ascending, adjacent ones possibly
  // apart. Stops when `found` returns false. Throws SYSTEM, TARGET_EXITED.
  virtual void scan(PageRange range, PageFilter filter,
                    const std::function<bool(PageRange)>& found) = 0;

  // The best this kernel has. Throws PERMISSION, NO_SUCH_PROCESS.
  static std::unique_ptr<PageScan> open(pid_t pid);
};

}  // namespace sluice
