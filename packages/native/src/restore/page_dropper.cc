#include "restore/page_dropper.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "base/error.h"
#include "base/page_ranges.h"
#include "kernel/syscalls.h"
#include "pages/mapped_file.h"

namespace sluice {
namespace {

constexpr size_t kBlockBytes = size_t{1} << 20;

}  // namespace

uint64_t PageDropper::drop(const WantedVma& vma) {
  return vma.is_private() ? drop_private(vma) : vma.is_object() ? clear_object(vma) : 0;
}

// Pages of its own that the image does not have: without them it reads zeros, or the file.
uint64_t PageDropper::drop_private(const WantedVma& vma) {
  uint64_t dropped = 0;
  for (const PageRange& gap : without(vma.range(), kept_)) {
    std::vector<PageRange> own;
    scan_->scan(gap, PageFilter::kOwn, [&](PageRange run) {
      own.push_back(run);
      return true;
    });
    if (own.empty()) {
      continue;
    }
    // What is not its own between them may be dropped as well.
    const bool gone = calls_->drop({own.front().start, own.back().end});
    for (const PageRange& run : own) {
      dropped += run.pages();
      if (!gone) {
        refill(vma, run);
      }
    }
  }
  return dropped;
}

// Writes over what cannot be dropped.
void PageDropper::refill(const WantedVma& vma, PageRange range) {
  const ScopedFd fd =
      vma.kind == VmaKind::kPrivateFile ? writer_->open_mapped(vma, O_RDONLY) : ScopedFd();
  if (vma.kind == VmaKind::kPrivateFile && !fd) {
    throw Error("SYSTEM", pid_, "openat", EACCES,
                vma.mapping.path + " could not be opened to put back what it holds");
  }
  std::vector<uint8_t> block(std::min<uint64_t>(kBlockBytes, range.bytes()));
  for (uint64_t at = range.start; at < range.end; at += block.size()) {
    const size_t bytes = std::min<uint64_t>(block.size(), range.end - at);
    std::fill(block.begin(), block.end(), 0);
    if (fd) {
      const uint64_t offset = vma.mapping.offset + (at - vma.mapping.start);
      const long got = sys::call_restarting(SYS_pread64, fd.get(), block.data(), bytes, offset);
      if (got < 0) {
        throw Error("SYSTEM", pid_, "pread64", static_cast<int>(-got),
                    vma.mapping.path + " could not be read");
      }
    }
    writer_->write_range(vma, {at, at + bytes}, block.data());
  }
}

// Zeros wherever its object has data and the image has none.
uint64_t PageDropper::clear_object(const WantedVma& vma) {
  const PageRange whole = vma.range();
  std::vector<PageRange> used;
  const auto add = [&](PageRange run) {
    used.push_back(run);
    return true;
  };
  const ScopedFd fd = writer_->open_mapped(vma, O_RDONLY);
  struct statfs system{};
  const bool huge = fd && fstatfs(fd.get(), &system) == 0 && system.f_type == HUGETLBFS_MAGIC;
  const auto data =
      fd && !huge ? data_ranges(fd.get(), vma.mapping.offset, whole.bytes()) : std::nullopt;
  if (data) {
    for (const PageRange& range : *data) {
      add({whole.start + (range.start - vma.mapping.offset),
           whole.start + (range.end - vma.mapping.offset)});
    }
    if (!vma.mapping.shared) {
      scan_->scan(whole, PageFilter::kOwn, add);
    }
  } else {
    scan_->scan(whole, PageFilter::kPresent, add);
  }
  uint64_t dropped = 0;
  const std::vector<uint8_t> zeros(kBlockBytes);
  for (const PageRange& range : normalised(std::move(used))) {
    for (const PageRange& part : without(range, kept_)) {
      for (uint64_t at = part.start; at < part.end; at += zeros.size()) {
        const uint64_t end = std::min<uint64_t>(part.end, at + zeros.size());
        dropped += writer_->write_range(vma, {at, end}, zeros.data());
      }
    }
  }
  return dropped;
}

}  // namespace sluice
