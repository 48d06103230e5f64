#include "pages/page_scan.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

using Found = std::function<bool(PageRange)>;

// A call holds the target's mmap lock for reading, so it covers no more than this; sparse parts
// cost next to nothing, so the limit is on existing pages.
constexpr uint64_t kPagesPerCall = 16384;
constexpr size_t kRegionsPerCall = 1024;
constexpr size_t kEntriesPerRead = 16384;

ScopedFd open_pagemap(pid_t pid) {
  const long fd =
      sys::call(SYS_openat, AT_FDCWD, proc_path(pid, "pagemap").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const bool gone = fd == -ENOENT || fd == -ESRCH;
    throw Error(gone ? "NO_SUCH_PROCESS" : "PERMISSION", pid, "openat", static_cast<int>(-fd),
                gone ? "the process is gone" : "its page table may not be read by this user");
  }
  return ScopedFd(static_cast<int>(fd));
}

[[noreturn]] void throw_scan_failed(pid_t pid, const char* call, long result) {
  const bool gone = result == -ESRCH || result == 0;
  throw Error(gone ? "TARGET_EXITED" : "SYSTEM", pid, call, static_cast<int>(-result),
              gone ? "it has no address space any more" : "its page table could not be read");
}

class IoctlScan : public PageScan {
 public:
  IoctlScan(pid_t pid, ScopedFd fd)
      : pid_(pid),
        fd_(std::move(fd)),
        // Guard pages look swapped out, and cannot be read.
        unwanted_(available(fd_.get(), abi::kPageIsGuard) ? uint64_t{abi::kPageIsGuard} : 0),
        regions_(kRegionsPerCall) {}

  // Whether the kernel has the call, and knows these categories.
  static bool available(int fd, uint64_t categories) {
    abi::PageScanArg arg{};
    arg.size = sizeof arg;
    arg.category_mask = categories;
    return sys::call(SYS_ioctl, fd, abi::kPagemapScan, &arg) >= 0;
  }

  void scan(PageRange range, PageFilter filter, const Found& found) override {
    abi::PageScanArg arg{};
    arg.size = sizeof arg;
    arg.vec = reinterpret_cast<uint64_t>(regions_.data());
    arg.vec_len = regions_.size();
    arg.max_pages = kPagesPerCall;
    arg.end = range.end;
    arg.category_anyof_mask = abi::kPageIsPresent | abi::kPageIsSwapped;
    arg.category_inverted = unwanted_;
    if (filter == PageFilter::kOwn) {
      arg.category_inverted |= abi::kPageIsFile | abi::kPageIsPfnZero;
    }
    arg.category_mask = arg.category_inverted;
    arg.return_mask = abi::kPageIsPresent;
    while (range.start < range.end) {
      arg.start = range.start;
      const long count = sys::call_restarting(SYS_ioctl, fd_.get(), abi::kPagemapScan, &arg);
      if (count < 0) {
        throw_scan_failed(pid_, "ioctl", count);
      }
      if (arg.walk_end <= arg.start) {
        throw_scan_failed(pid_, "ioctl", 0);
      }
      for (long i = 0; i < count; ++i) {
        if (!found({regions_[i].start, regions_[i].end})) {
          return;
        }
      }
      // The kernel collects 512 regions at a time. When it has filled that once and then comes to
      // the end, walk_end still is where it stood when it was full, before regions it returned.
      range.start = count > 0 ? std::max(arg.walk_end, regions_[count - 1].end) : arg.walk_end;
    }
  }

 private:
  pid_t pid_;
  ScopedFd fd_;
  uint64_t unwanted_;
  std::vector<abi::PageRegion> regions_;
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
  ScopedFd fd = open_pagemap(pid);
  if (IoctlScan::available(fd.get(), 0)) {
    return std::make_unique<IoctlScan>(pid, std::move(fd));
  }
  return std::make_unique<PagemapScan>(pid, std::move(fd));
}

}  // namespace sluice
