// Half-open ranges of addresses in the target, always whole pages.
#pragma once

#include <cstdint>

namespace sluice {

inline constexpr uint64_t kPageBytes = 4096;
// One past the last address a process can have with 5-level page tables.
inline constexpr uint64_t kAddressSpaceEnd = uint64_t{1} << 56;

struct PageRange {
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t bytes() const { return end - start; }
  uint64_t pages() const { return (end - start) / kPageBytes; }
  bool empty() const { return start >= end; }
};

inline PageRange intersect(PageRange a, PageRange b) {
  return {a.start > b.start ? a.start : b.start, a.end < b.end ? a.end : b.end};
}

}  // namespace sluice
