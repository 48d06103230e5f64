// Reads /proc/PID/pagemap entry by entry (Documentation/admin-guide/mm/pagemap.rst): the only way
// to page tables before Linux 6.7, and to soft-dirty bits as clear_refs resets them.
#pragma once

#include <sys/types.h>

#include <functional>
#include <span>
#include <vector>

#include "base/page_range.h"
#include "base/scoped_fd.h"
#include "pages/page_scan.h"

namespace sluice {

class PagemapEntries {
 public:
  // `at` is the address of the first of `entries`.
  using Found = std::function<bool(uint64_t at, std::span<const uint64_t> entries)>;

  // Throws PERMISSION, NO_SUCH_PROCESS.
  explicit PagemapEntries(pid_t pid);

  // Calls `found` with the entries of all pages in `range`, ascending, until it returns false.
  // Throws SYSTEM, TARGET_EXITED.
  void walk(PageRange range, const Found& found);

  bool matches(uint64_t entry, PageFilter filter) const;

 private:
  pid_t pid_;
  ScopedFd fd_;
  uint64_t zero_frame_;
  std::vector<uint64_t> entries_;
};

// Calls `found` with the runs of entries that match, until it returns false; then returns false.
template <typename Matches, typename Found>
bool for_each_run(uint64_t at, std::span<const uint64_t> entries, Matches matches, Found found) {
  for (size_t i = 0; i < entries.size();) {
    const size_t first = i;
    while (i < entries.size() && matches(entries[i])) {
      ++i;
    }
    if (i == first) {
      ++i;
    } else if (!found(PageRange{at + first * kPageBytes, at + i * kPageBytes})) {
      return false;
    }
  }
  return true;
}

}  // namespace sluice
