// Places of pages in one file: an address keeps the place that it was given, so that what is
// written there later takes the place of what was there before.
//
//   addresses  |== a ==|    |==== b ====|     |= c =|      (mappings of now and of earlier rounds)
//   file       ~first~|== a ==|==== b ====|= c =|          (extents, in the order they were needed)
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/page_ranges.h"
#include "base/scoped_fd.h"

namespace sluice {

// Adjacent pages and where they have their place, in bytes into the file.
struct Placed {
  PageRange range;
  uint64_t offset = 0;
};

class Places {
 public:
  // `path` is a file that exists; what comes before `first` bytes, whole pages, is the caller's.
  // Throws OUTPUT_NOT_WRITABLE, IO.
  Places(const std::string& path, uint64_t first);

  // What is mapped now: a page that has no place yet gets one together with its mapping.
  void learn(PageRanges mappings);
  // Gives places to the mappings of these pages, which will be written, and reserves space for
  // them: a full disk shows before the freeze. Throws DISK_FULL, IO.
  void expect(const PageRanges& pages);
  // The places of pages, in order. Throws IO.
  std::vector<Placed> find(PageRange pages);
  // The same of pages that are about to be written.
  std::vector<Placed> place(PageRange pages);
  // Makes holes of all that was reserved or written beside `kept` (of the file, bytes); where the
  // file system has none, zeros. Throws IO, DISK_FULL.
  void clear_all_but(PageRanges kept);

  const std::string& path() const { return path_; }
  // All that were given, ascending by address.
  std::vector<Placed> extents() const;
  // One past the last place, bytes.
  uint64_t end() const;

 private:
  const Placed& extent_at(uint64_t address);
  Placed place_of_start(PageRange pages);
  void lengthen(uint64_t end);
  void clear(PageRange range);
  [[noreturn]] void fail(const char* call, long result, const char* what) const;

  const std::string path_;
  ScopedFd fd_;
  mutable std::mutex mutex_;
  PageRanges mappings_;
  std::map<uint64_t, Placed> extents_;  // by their first address
  uint64_t end_ = 0;
  PageRanges reserved_;  // addresses
  PageRanges used_;      // of the file: reserved or written; in any order
  bool can_reserve_ = true;
};

}  // namespace sluice
