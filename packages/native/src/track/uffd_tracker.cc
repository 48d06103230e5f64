#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/steps.h"
#include "kernel/syscalls.h"
#include "pages/page_scan.h"
#include "pages/scan_calls.h"
#include "track/tracker.h"

namespace sluice {
namespace {

// Existing pages per step of unwatching. A step takes the target's mmap lock for writing, so that
// its page faults wait: 16 MiB are some hundred microseconds.
constexpr uint64_t kPagesPerStep = 4096;

// Addresses that one call protects, at first and at most.
constexpr uint64_t kLiveSpanBytes = kPagesPerLiveCall * kPageBytes;
constexpr uint64_t kMostSpanBytes = uint64_t{1} << 30;

class UffdScan : public TrackerScan {
 public:
  explicit UffdScan(pid_t pid) : calls_(pid) {}

  // Without "present or swapped", which is part of own pages, holes would count as written and get
  // markers in page tables made for them: gigabytes for a large sparse mapping.
  uint64_t collect(PageRange range, PageFilter own, Wanted wanted, const Found& found) override {
    PageQuery query = calls_.own_pages(own == PageFilter::kOwn);
    query.flags = abi::kScanWpMatching | abi::kScanCheckWpAsync;
    if (wanted == Wanted::kWritten) {
      query.mask |= abi::kPageIsWritten;
    }
    // Where a call ends within a huge page, the kernel splits that. So what a call does is bounded
    // by addresses; where there are few pages, by more of them, for a mapping can be huge and
    // empty.
    uint64_t span = kLiveSpanBytes;
    for (uint64_t at = range.start; at < range.end;) {
      const uint64_t end = std::min(range.end, (at + span) / kHugePageBytes * kHugePageBytes);
      uint64_t pages = 0;
      const uint64_t most = span > kLiveSpanBytes ? kPagesPerLiveCall : 0;
      const uint64_t came_to = calls_.walk({at, end}, query, most, [&](PageRange run, uint64_t) {
        pages += run.pages();
        found(run);
        return true;
      });
      if (came_to != end) {
        return came_to;
      }
      at = end;
      span = pages < kPagesPerLiveCall / 2 ? std::min(2 * span, kMostSpanBytes) : kLiveSpanBytes;
    }
    return range.end;
  }

  bool count(PageRange range, PageFilter own, const Found& found) override {
    PageQuery query = calls_.own_pages(own == PageFilter::kOwn);
    query.flags = abi::kScanCheckWpAsync;
    query.mask |= abi::kPageIsWritten;
    return calls_.walk(range, query, kPagesPerLiveCall, telling(found)) == range.end;
  }

  bool look(PageRange range, PageFilter own, Look* look) override {
    return own == PageFilter::kOwn ? look_over_file(range, look) : look_anonymous(range, look);
  }

 private:
  // "Written or absent" is by far the quickest question that is exact: it needs no look at what is
  // behind an entry.
  bool look_anonymous(PageRange range, Look* look) {
    PageQuery query;
    query.flags = abi::kScanCheckWpAsync;
    query.inverted = abi::kPageIsPresent;
    query.anyof = abi::kPageIsWritten | abi::kPageIsPresent;
    query.returned = calls_.guard() | abi::kPageIsWritten | abi::kPageIsPresent |
                     abi::kPageIsSwapped | abi::kPageIsPfnZero;
    // A range within one mapping is refused at once if it is, so that nothing was noted then.
    return calls_.walk(range, query, 0, [&](PageRange run, uint64_t is) {
      look->changed.push_back(run);
      const bool exists = (is & (abi::kPageIsPresent | abi::kPageIsSwapped)) != 0 &&
                          (is & (calls_.guard() | abi::kPageIsPfnZero)) == 0;
      if (exists) {
        ((is & abi::kPageIsWritten) != 0 ? look->written : look->kept).push_back(run);
      }
      return true;
    }) == range.end;
  }

  // Over a file that question is not exact: where a write-protected page is dropped, the kernel
  // leaves a marker, which counts as swapped, and the page of the file that is mapped in its place
  // is born protected. Neither counts as written, though the content is another one. So only own
  // pages that are present and not written are as they were.
  bool look_over_file(PageRange range, Look* look) {
    PageQuery query = calls_.own_pages(true);
    query.flags = abi::kScanCheckWpAsync;
    query.returned = abi::kPageIsWritten | abi::kPageIsPresent;
    const uint64_t end = calls_.walk(range, query, 0, [&](PageRange run, uint64_t is) {
      (is == abi::kPageIsPresent ? look->kept : look->written).push_back(run);
      return true;
    });
    if (end == range.end) {
      look->changed.push_back(range);
    }
    return end == range.end;
  }

  static ScanCalls::Found telling(const Found& found) {
    return [&found](PageRange run, uint64_t) {
      found(run);
      return true;
    };
  }

  ScanCalls calls_;
};

class UffdTracker : public Tracker {
 public:
  UffdTracker(pid_t pid, ScopedFd fd) : pid_(pid), fd_(std::move(fd)), calls_(pid) {}
  TrackerMode mode() const override { return TrackerMode::kUffdWp; }

  std::vector<Mapping> watch(const std::vector<Mapping>& mappings) override {
    std::vector<Mapping> watched;
    for (const Mapping& mapping : mappings) {
      const PageRange range{mapping.start, mapping.end};
      // Those that are gone, that another userfaultfd watches, or that the kernel has other plans
      // with are taken whole under freeze.
      if (is_watched(range.start) || begin(range)) {
        watched.push_back(mapping);
        ranges_.push_back(range);
      }
    }
    ranges_ = normalised(std::move(ranges_));
    return watched;
  }

  std::unique_ptr<TrackerScan> scan() const override { return std::make_unique<UffdScan>(pid_); }

  void unwatch() override {
    const auto pages = PageScan::open(pid_);
    for (const PageRange& range : ranges_) {
      uint64_t start = range.start;
      uint64_t in_step = 0;
      pages->scan(range, PageFilter::kPresent, [&](PageRange run) {
        while (in_step + run.pages() >= kPagesPerStep) {
          // The mapping is divided there for a moment, which must not be within a huge page.
          uint64_t end = run.start + (kPagesPerStep - in_step) * kPageBytes;
          end -= end % kHugePageBytes;
          unregister({start, end});
          start = end;
          run.start = std::max(run.start, end);
          in_step = 0;
        }
        in_step += run.pages();
        return true;
      });
      unregister({start, range.end});
    }
    fd_.reset();
  }

 private:
  // Whether the mapping at this address is.
  bool is_watched(uint64_t address) {
    PageQuery query = calls_.own_pages(false);
    query.flags = abi::kScanCheckWpAsync;
    const PageRange page{address, address + kPageBytes};
    return calls_.walk(page, query, 1, [](PageRange, uint64_t) { return true; }) == page.end;
  }

  // False if it cannot be watched.
  bool begin(PageRange range) {
    uffdio_register wanted{};
    wanted.range = {range.start, range.bytes()};
    wanted.mode = UFFDIO_REGISTER_MODE_WP;
    if (call(UFFDIO_REGISTER, &wanted) < 0) {
      return false;
    }
    ranges_.push_back(range);
    steps::at(steps::Step::kRangeWatched);
    return forget_protection(range);
  }

  // Pages of a mapping that is new here can be protected already, and writable all the same, so
  // that they would never count as written. mremap(2) brings that about: when it puts pages beside
  // a watched mapping and merges the two, the kernel ends the watch over both and leaves the marks
  // of the one in place; before Linux 6.14 it left those of the pages it moved, too.
  bool forget_protection(PageRange range) {
    PageQuery query;
    query.flags = abi::kScanCheckWpAsync;
    query.inverted = query.mask = abi::kPageIsWritten;
    query.anyof = abi::kPageIsPresent | abi::kPageIsSwapped;
    query = calls_.without_guards(query);
    PageRanges marked;
    calls_.walk(range, query, kPagesPerLiveCall, [&](PageRange run, uint64_t) {
      append_range(&marked, run);
      return true;
    });
    for (const PageRange& run : marked) {
      uffdio_writeprotect none{};
      none.range = {run.start, run.bytes()};
      if (call(UFFDIO_WRITEPROTECT, &none) < 0) {
        unregister(range);
        return false;
      }
    }
    return true;
  }

  template <typename Argument>
  long call(unsigned long request, Argument* argument) {
    const long result = sys::call_restarting(SYS_ioctl, fd_.get(), request, argument);
    if (result == -ESRCH) {
      throw Error("TARGET_EXITED", pid_, "ioctl", ESRCH, "it has no address space any more");
    }
    return result;
  }

  // Ranges with holes and foreign mappings in them are fine. What fails, closing the descriptor
  // does.
  void unregister(PageRange range) {
    uffdio_range wanted{range.start, range.bytes()};
    if (!range.empty()) {
      sys::call_restarting(SYS_ioctl, fd_.get(), UFFDIO_UNREGISTER, &wanted);
      steps::at(steps::Step::kRangeReleased);
    }
  }

  pid_t pid_;
  ScopedFd fd_;
  ScanCalls calls_;
  PageRanges ranges_;
};

}  // namespace

std::unique_ptr<Tracker> make_uffd_tracker(pid_t pid, ScopedFd userfaultfd) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = abi::kUffdWpAsync | abi::kUffdWpUnpopulated;
  const long result = sys::call(SYS_ioctl, userfaultfd.get(), UFFDIO_API, &api);
  if (result < 0) {
    throw Error("TRACKER_UNAVAILABLE", pid, "ioctl", static_cast<int>(-result),
                "the kernel has no asynchronous write protection (UFFD_FEATURE_WP_ASYNC)");
  }
  if (!ScanCalls(pid).knows(abi::kPageIsWritten)) {
    throw Error("TRACKER_UNAVAILABLE", pid, "ioctl", ENOTTY, "the kernel has no PAGEMAP_SCAN");
  }
  return std::make_unique<UffdTracker>(pid, std::move(userfaultfd));
}

}  // namespace sluice
