#include "pages/pagemap_entries.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>

#include "kernel/abi.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"
#include "pages/scan_calls.h"

namespace sluice {
namespace {

constexpr size_t kEntriesPerRead = 16384;

// Frame number of the kernel's zero page, from a page of our own that was only read; 0 if frame
// numbers are hidden from this caller. Then zero pages are stored like others.
uint64_t zero_page_frame() {
  void* page = mmap(nullptr, kPageBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) {
    return 0;
  }
  (void)*static_cast<volatile char*>(page);
  uint64_t entry = 0;
  const ScopedFd self(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  const auto at = reinterpret_cast<uint64_t>(page) / kPageBytes * sizeof entry;
  if (pread(self.get(), &entry, sizeof entry, static_cast<off_t>(at)) != sizeof entry) {
    entry = 0;
  }
  munmap(page, kPageBytes);
  return entry & abi::kPagemapPfnMask;
}

}  // namespace

PagemapEntries::PagemapEntries(pid_t pid)
    : pid_(pid),
      fd_(open_pagemap(pid)),
      zero_frame_(zero_page_frame()),
      entries_(kEntriesPerRead) {}

void PagemapEntries::walk(PageRange range, const Found& found) {
  for (uint64_t at = range.start; at < range.end;) {
    const uint64_t wanted = std::min<uint64_t>(kEntriesPerRead, (range.end - at) / kPageBytes);
    const long got = sys::call_restarting(SYS_pread64, fd_.get(), entries_.data(),
                                          wanted * sizeof(uint64_t), at / kPageBytes * 8);
    if (got <= 0) {
      throw_scan_failed(pid_, "pread64", got);
    }
    const uint64_t pages = static_cast<uint64_t>(got) / sizeof(uint64_t);
    if (!found(at, std::span(entries_).first(pages))) {
      return;
    }
    at += pages * kPageBytes;
  }
}

bool PagemapEntries::matches(uint64_t entry, PageFilter filter) const {
  if ((entry & (abi::kPagemapPresent | abi::kPagemapSwapped)) == 0 ||
      (entry & abi::kPagemapGuard) != 0) {
    return false;
  }
  if (filter == PageFilter::kPresent) {
    return true;
  }
  const bool zero = (entry & abi::kPagemapPresent) != 0 && zero_frame_ != 0 &&
                    (entry & abi::kPagemapPfnMask) == zero_frame_;
  return (entry & abi::kPagemapFile) == 0 && !zero;
}

}  // namespace sluice
