#include "pages/scan_calls.h"

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

constexpr size_t kRegionsPerCall = 1024;

}  // namespace

void throw_scan_failed(pid_t pid, const char* call, long result) {
  const bool gone = result == -ESRCH || result == 0;
  throw Error(gone ? "TARGET_EXITED" : "SYSTEM", pid, call, static_cast<int>(-result),
              gone ? "it has no address space any more" : "its page table could not be read");
}

ScanCalls::ScanCalls(pid_t pid)
    : pid_(pid),
      fd_(open_pagemap(pid)),
      guard_(knows(abi::kPageIsGuard) ? uint64_t{abi::kPageIsGuard} : 0),
      regions_(kRegionsPerCall) {}

bool ScanCalls::knows(uint64_t categories) const {
  abi::PageScanArg arg{};
  arg.size = sizeof arg;
  arg.category_mask = categories;
  return sys::call(SYS_ioctl, fd_.get(), abi::kPagemapScan, &arg) >= 0;
}

PageQuery ScanCalls::without_guards(PageQuery query) const {
  query.inverted |= guard_;
  query.mask |= guard_;
  return query;
}

PageQuery ScanCalls::own_pages(bool in_file) const {
  PageQuery query;
  query.inverted = query.mask = abi::kPageIsPfnZero | (in_file ? uint64_t{abi::kPageIsFile} : 0);
  query.anyof = abi::kPageIsPresent | abi::kPageIsSwapped;
  query.returned = abi::kPageIsPresent;
  return without_guards(query);
}

bool ScanCalls::is_huge(uint64_t page) const {
  abi::PageRegion region{};
  abi::PageScanArg arg{};
  arg.size = sizeof arg;
  arg.start = page;
  arg.end = page + kPageBytes;
  arg.vec = reinterpret_cast<uint64_t>(&region);
  arg.vec_len = 1;
  arg.category_mask = arg.return_mask = abi::kPageIsHuge;
  return sys::call_restarting(SYS_ioctl, fd_.get(), abi::kPagemapScan, &arg) == 1;
}

uint64_t ScanCalls::walk(PageRange range, const PageQuery& query, uint64_t most_pages,
                         const Found& found) {
  abi::PageScanArg arg{};
  arg.size = sizeof arg;
  arg.flags = query.flags;
  arg.end = range.end;
  arg.vec = reinterpret_cast<uint64_t>(regions_.data());
  arg.vec_len = regions_.size();
  arg.max_pages = most_pages;
  arg.category_inverted = query.inverted;
  arg.category_mask = query.mask;
  arg.category_anyof_mask = query.anyof;
  arg.return_mask = query.returned;
  for (uint64_t at = range.start; at < range.end;) {
    arg.start = at;
    const long count = sys::call_restarting(SYS_ioctl, fd_.get(), abi::kPagemapScan, &arg);
    if (count == -EPERM) {
      return at;
    }
    if (count < 0) {
      throw_scan_failed(pid_, "ioctl", count);
    }
    if (arg.walk_end <= at) {
      throw_scan_failed(pid_, "ioctl", 0);
    }
    for (long i = 0; i < count; ++i) {
      if (!found({regions_[i].start, regions_[i].end}, regions_[i].categories)) {
        return range.end;
      }
    }
    // The kernel collects 512 regions at a time. When it has filled that once and then comes to
    // the end, walk_end still is where it stood when it was full, before regions it returned.
    at = count > 0 ? std::max(arg.walk_end, regions_[count - 1].end) : arg.walk_end;
  }
  return range.end;
}

}  // namespace sluice
