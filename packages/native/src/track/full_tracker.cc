#include "pages/page_scan.h"
#include "track/tracker.h"

namespace sluice {
namespace {

class FullScan : public TrackerScan {
 public:
  explicit FullScan(pid_t pid) : pages_(PageScan::open(pid)) {}

  uint64_t collect(PageRange range, Wanted, const Found& found) override {
    count(range, found);
    return range.end;
  }
  bool count(PageRange range, const Found& found) override {
    pages_->scan(range, PageFilter::kOwn, [&](PageRange run) {
      found(run);
      return true;
    });
    return true;
  }
  bool look(PageRange, bool, Look*) override { return false; }

 private:
  std::unique_ptr<PageScan> pages_;
};

class FullTracker : public Tracker {
 public:
  explicit FullTracker(pid_t pid) : pid_(pid) {}
  TrackerMode mode() const override { return TrackerMode::kNone; }
  std::vector<Mapping> watch(const std::vector<Mapping>& mappings) override { return mappings; }
  std::unique_ptr<TrackerScan> scan() const override { return std::make_unique<FullScan>(pid_); }
  void unwatch() override {}

 private:
  pid_t pid_;
};

}  // namespace

std::unique_ptr<Tracker> make_full_tracker(pid_t pid) { return std::make_unique<FullTracker>(pid); }

}  // namespace sluice
