// Walks over page tables with the ioctl PAGEMAP_SCAN (Linux 6.7,
// Documentation/admin-guide/mm/pagemap.rst).
#pragma once

#include <sys/types.h>

#include <functional>
#include <vector>

#include "base/page_range.h"
#include "base/scoped_fd.h"
#include "kernel/abi.h"

namespace sluice {

// Which pages to find: those that have all categories of `mask` and one of `anyof`, after the
// meaning of the `inverted` ones was turned round. `returned` are the categories to be told.
struct PageQuery {
  uint64_t flags = 0;
  uint64_t inverted = 0;
  uint64_t mask = 0;
  uint64_t anyof = 0;
  uint64_t returned = 0;
};

// Throws SYSTEM or TARGET_EXITED for what a read or scan of page tables returned.
[[noreturn]] void throw_scan_failed(pid_t pid, const char* call, long result);

class ScanCalls {
 public:
  using Found = std::function<bool(PageRange run, uint64_t categories)>;

  // Throws PERMISSION, NO_SUCH_PROCESS.
  explicit ScanCalls(pid_t pid);

  // Whether the kernel has the call, and knows these categories.
  bool knows(uint64_t categories) const;

  // The category of guard pages, 0 where the kernel does not know it.
  uint64_t guard() const { return guard_; }

  // The pages that the process has for itself: present or swapped, not the zero page, not pages of
  // the file, not guard pages, which look swapped and cannot be read.
  // In a mapping without a file there are none of a file to be told from them.
  PageQuery own_pages(bool in_file) const;
  // Adds to a query that guard pages are not wanted.
  PageQuery without_guards(PageQuery query) const;

  // Whether the page lies in a huge one. What is done to a part of that (a scan that protects it, a
  // mapping that is divided there) splits it. False too where no process can have a page.
  bool is_huge(uint64_t page) const;

  // Calls `found` with the runs of matching pages, ascending, adjacent ones possibly apart, until
  // it returns false. `most_pages` bounds what one call finds, since it holds the target's mmap
  // lock for reading; 0 for no bound. Returns the end of the range; or, if the kernel refused a
  // call with EPERM (CHECK_WPASYNC), where that call began: what it did remains unknown. Throws
  // SYSTEM, TARGET_EXITED.
  uint64_t walk(PageRange range, const PageQuery& query, uint64_t most_pages, const Found& found);

 private:
  pid_t pid_;
  ScopedFd fd_;
  uint64_t guard_;
  std::vector<abi::PageRegion> regions_;
};

inline constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;

// Pages per call of a walk while the target runs: 64 MiB, about a millisecond.
inline constexpr uint64_t kPagesPerLiveCall = 16384;

}  // namespace sluice
