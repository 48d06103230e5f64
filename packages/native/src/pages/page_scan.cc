#include "pages/page_scan.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"
#include "pages/scan_calls.h"

namespace sluice {
namespace {

using Found = std::function<bool(PageRange)>;

constexpr size_t kEntriesPerRead = 16384;

class IoctlScan : public PageScan {
 public:
  IoctlScan(pid_t pid, ScanCalls calls) : pid_(pid), calls_(std::move(calls)) {}

  void scan(PageRange range, PageFilter filter, const Found& found) override {
    PageQuery query = calls_.own_pages(filter == PageFilter::kOwn);
    if (filter == PageFilter::kPresent) {
      query.inverted = query.mask = 0;
      query = calls_.without_guards(query);
    }
    const auto end = calls_.walk(range, query, kPagesPerLiveCall,
                                 [&](PageRange run, uint64_t) { return found(run); });
    if (end != range.end) {
      throw_scan_failed(pid_, "ioctl", -EPERM);
    }
  }

 private:
  pid_t pid_;
  ScanCalls calls_;
};

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

class PagemapScan : public PageScan {
 public:
  PagemapScan(pid_t pid, ScopedFd fd)
      : pid_(pid), fd_(std::move(fd)), zero_frame_(zero_page_frame()), entries_(kEntriesPerRead) {}

  void scan(PageRange range, PageFilter filter, const Found& found) override {
    for (uint64_t at = range.start; at < range.end;) {
      const uint64_t wanted = std::min<uint64_t>(kEntriesPerRead, (range.end - at) / kPageBytes);
      const long got = sys::call_restarting(SYS_pread64, fd_.get(), entries_.data(),
                                            wanted * sizeof(uint64_t), at / kPageBytes * 8);
      if (got <= 0) {
        throw_scan_failed(pid_, "pread64", got);
      }
      const uint64_t pages = static_cast<uint64_t>(got) / sizeof(uint64_t);
      for (uint64_t i = 0; i < pages;) {
        const uint64_t first = i;
        while (i < pages && matches(entries_[i], filter)) {
          ++i;
        }
        if (i == first) {
          ++i;
        } else if (!found({at + first * kPageBytes, at + i * kPageBytes})) {
          return;
        }
      }
      at += pages * kPageBytes;
    }
  }

 private:
  bool matches(uint64_t entry, PageFilter filter) const {
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

  pid_t pid_;
  ScopedFd fd_;
  uint64_t zero_frame_;
  std::vector<uint64_t> entries_;
};

}  // namespace

std::unique_ptr<PageScan> PageScan::open(pid_t pid) {
  ScanCalls calls(pid);
  if (calls.knows(0)) {
    return std::make_unique<IoctlScan>(pid, std::move(calls));
  }
  return std::make_unique<PagemapScan>(pid, open_pagemap(pid));
}

}  // namespace sluice
