// What tells which pages of the target were written since they were last looked at: one contract
// for several mechanisms of the kernel.
//
// Only private memory is tracked, and only pages that the process has for itself: these are the
// pages that an image stores of it. Memory shared with others is written by them too, past the
// page tables that a tracker sees.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <vector>

#include "base/page_ranges.h"
#include "base/scoped_fd.h"
#include "kernel/proc_maps.h"
#include "pages/page_scan.h"

namespace sluice {

enum class TrackerMode { kAuto, kUffdWp, kSoftDirty, kNone };

// Which own pages `TrackerScan::collect` is after.
enum class Wanted {
  kWritten,
  // Those too that were collected and not written since: their capture failed.
  kAll,
};

// What changed in a range between its pages' being collected and the look. Ranges may touch.
struct Look {
  // Everything but pages that are there and not written: written ones, dropped ones, holes; and
  // perhaps more.
  PageRanges changed;
  // Own pages among them whose bytes have to be taken.
  PageRanges written;
  // Own pages among them that are as they were collected.
  PageRanges kept;
};

// The view of one thread. Ranges must lie within one mapping of what was watched; `own` tells of
// which kind it is: kOwn or kAnonymous.
class TrackerScan {
 public:
  using Found = std::function<void(PageRange)>;

  virtual ~TrackerScan() = default;

  // Collects: calls `found` with the wanted pages of `range`, ascending, and counts them as not
  // written from then on. A page is collected and reset in one step: what is written later is
  // written again. (A tracker that resets at once gives out what reset() collected.) Returns where
  // it came to: beyond that the range is not watched (any more), and what is there may have been
  // reset without being found. Throws SYSTEM, TARGET_EXITED; then the same holds from the end of
  // the last page found.
  virtual uint64_t collect(PageRange range, PageFilter own, Wanted wanted, const Found& found) = 0;

  // The pages that `collect` would find now, without collecting them. False if the range is not
  // watched. Throws the same.
  virtual bool count(PageRange range, PageFilter own, const Found& found) = 0;

  // For a frozen target. False if the range is not watched: nothing is known about it then, and
  // all its own pages have to be taken. Throws the same.
  virtual bool look(PageRange range, PageFilter own, Look* look) = 0;
};

class Tracker {
 public:
  virtual ~Tracker() = default;
  virtual TrackerMode mode() const = 0;
  // Watches these mappings from now on, beside those of earlier calls; their pages count as written
  // until they are collected. Returns those that are watched. To be called at the start of each
  // round, since mappings come, go and move. Throws TARGET_EXITED.
  virtual std::vector<Mapping> watch(const std::vector<Mapping>& mappings) = 0;
  // Whether pages can only be reset all at once, which takes reset() and a frozen target.
  virtual bool resets_at_once() const { return false; }
  // Collects all that is watched, for `collect` to give out in this round. Returns the pages: they
  // are owed if it does not come to that. Throws SYSTEM, TARGET_EXITED, PERMISSION.
  virtual PageRanges reset() { return {}; }
  virtual std::unique_ptr<TrackerScan> scan() const = 0;
  // Leaves no trace of it in the target. In steps so small that the target does not wait for it
  // noticeably; the destructor does the same at once.
  virtual void unwatch() = 0;
};

// Every round is a full one: the oracle.
std::unique_ptr<Tracker> make_full_tracker(pid_t pid);

// Pages in `known` count as written only if they were since somebody last reset them; all others
// count as written at first. The caller must know that the kernel has soft-dirty bits
// (probe_soft_dirty). What anyone else who tracks the process had yet to collect is reset too.
std::unique_ptr<Tracker> make_soft_dirty_tracker(pid_t pid, PageRanges known);

// `userfaultfd` is that of the target's address space (made by a helper), not initialised yet.
// Throws TRACKER_UNAVAILABLE if the kernel lacks UFFD_FEATURE_WP_ASYNC or PAGEMAP_SCAN (Linux 6.7).
std::unique_ptr<Tracker> make_uffd_tracker(pid_t pid, ScopedFd userfaultfd);

}  // namespace sluice
