// Soft-dirty bits (Documentation/admin-guide/mm/soft-dirty.rst): writing "4" to clear_refs resets
// those of all pages of the process, and a write to a page sets its bit again. Reading the bits and
// resetting them are two steps, so the target must not run between them.
#include <fcntl.h>

#include <algorithm>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/proc_file.h"
#include "kernel/steps.h"
#include "kernel/syscalls.h"
#include "pages/pagemap_entries.h"
#include "track/tracker.h"

namespace sluice {
namespace {

// Of the tracker and its scans. Changes only in reset(), when no scan is used.
struct Bits {
  // Where a page whose bit is not set was collected before.
  PageRanges watched;
  // Collected by the last reset.
  PageRanges collected;
};

class SoftDirtyScan : public TrackerScan {
 public:
  SoftDirtyScan(pid_t pid, std::shared_ptr<const Bits> bits)
      : bits_(std::move(bits)), entries_(pid), pages_(PageScan::open(pid)) {}

  uint64_t collect(PageRange range, PageFilter own, Wanted wanted, const Found& found) override {
    if (wanted == Wanted::kAll) {
      pages_->scan(range, own, [&](PageRange run) {
        found(run);
        return true;
      });
    } else {
      const PageRanges collected = intersected({range}, bits_->collected);
      std::for_each(collected.begin(), collected.end(), found);
    }
    return range.end;
  }

  bool count(PageRange range, PageFilter own, const Found& found) override {
    const PageRanges written = written_in(range, own);
    std::for_each(written.begin(), written.end(), found);
    return true;
  }

  bool look(PageRange range, PageFilter own, Look* look) override {
    PageRanges all;
    const PageRanges written = written_in(range, own, &all);
    const PageRanges changed = subtracted({range}, subtracted(all, written));
    look->changed.insert(look->changed.end(), changed.begin(), changed.end());
    look->written.insert(look->written.end(), written.begin(), written.end());
    return true;
  }

  // `all`: the own pages, written or not.
  PageRanges written_in(PageRange range, PageFilter own, PageRanges* all = nullptr) {
    PageRanges exist;
    PageRanges marked;
    entries_.walk(range, [&](uint64_t at, std::span<const uint64_t> entries) {
      for_each_run(
          at, entries, [&](uint64_t entry) { return entries_.matches(entry, own); },
          [&](PageRange run) {
            append_range(&exist, run);
            return for_each_run(
                run.start, entries.subspan((run.start - at) / kPageBytes, run.pages()),
                [](uint64_t entry) { return (entry & abi::kPagemapSoftDirty) != 0; },
                [&](PageRange part) {
                  append_range(&marked, part);
                  return true;
                });
          });
      return true;
    });
    PageRanges written = united(marked, subtracted(exist, bits_->watched));
    if (all != nullptr) {
      *all = std::move(exist);
    }
    return written;
  }

 private:
  std::shared_ptr<const Bits> bits_;
  PagemapEntries entries_;
  std::unique_ptr<PageScan> pages_;
};

class SoftDirtyTracker : public Tracker {
 public:
  SoftDirtyTracker(pid_t pid, PageRanges known) : pid_(pid), bits_(std::make_shared<Bits>()) {
    bits_->watched = std::move(known);
    const long fd =
        sys::call(SYS_openat, AT_FDCWD, proc_path(pid, "clear_refs").c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
      throw Error(fd == -ENOENT ? "NO_SUCH_PROCESS" : "PERMISSION", pid, "openat",
                  static_cast<int>(-fd), "its soft-dirty bits may not be reset by this user");
    }
    clear_refs_.reset(static_cast<int>(fd));
  }
  TrackerMode mode() const override { return TrackerMode::kSoftDirty; }

  std::vector<Mapping> watch(const std::vector<Mapping>& mappings) override {
    to_watch_.clear();
    for (const Mapping& mapping : mappings) {
      to_watch_.push_back({mapping.start, mapping.end});
    }
    return mappings;
  }

  std::unique_ptr<TrackerScan> scan() const override {
    return std::make_unique<SoftDirtyScan>(pid_, bits_);
  }

  bool resets_at_once() const override { return true; }

  PageRanges reset() override {
    SoftDirtyScan scan(pid_, bits_);
    PageRanges collected;
    for (const PageRange& range : to_watch_) {
      for (const PageRange& run : scan.written_in(range, PageFilter::kOwn)) {
        append_range(&collected, run);
      }
    }
    const long result = sys::call_restarting(SYS_write, clear_refs_.get(), "4", 1);
    if (result != 1) {
      throw Error(result == -ESRCH ? "TARGET_EXITED" : "SYSTEM", pid_, "write",
                  static_cast<int>(-result), "its soft-dirty bits could not be reset");
    }
    steps::at(steps::Step::kBitsReset);
    bits_->collected = collected;
    bits_->watched = normalised(to_watch_);
    return collected;
  }

  void unwatch() override {}

 private:
  pid_t pid_;
  std::shared_ptr<Bits> bits_;
  ScopedFd clear_refs_;
  PageRanges to_watch_;
};

}  // namespace

std::unique_ptr<Tracker> make_soft_dirty_tracker(pid_t pid, PageRanges known) {
  return std::make_unique<SoftDirtyTracker>(pid, std::move(known));
}

}  // namespace sluice
