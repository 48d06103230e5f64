#include "pages/page_scan.h"

#include <cerrno>

#include "kernel/abi.h"
#include "pages/pagemap_entries.h"
#include "pages/scan_calls.h"

namespace sluice {
namespace {

using Found = std::function<bool(PageRange)>;

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

class PagemapScan : public PageScan {
 public:
  explicit PagemapScan(pid_t pid) : entries_(pid) {}

  void scan(PageRange range, PageFilter filter, const Found& found) override {
    entries_.walk(range, [&](uint64_t at, std::span<const uint64_t> entries) {
      return for_each_run(
          at, entries, [&](uint64_t entry) { return entries_.matches(entry, filter); }, found);
    });
  }

 private:
  PagemapEntries entries_;
};

}  // namespace

std::unique_ptr<PageScan> PageScan::open(pid_t pid) {
  ScanCalls calls(pid);
  if (calls.knows(0)) {
    return std::make_unique<IoctlScan>(pid, std::move(calls));
  }
  return std::make_unique<PagemapScan>(pid);
}

}  // namespace sluice
