#include "base/page_ranges.h"

#include <algorithm>

namespace sluice {
namespace {

// The first range of a set that ends behind `address`: sets can be far larger than what is asked.
PageRanges::const_iterator first_behind(const PageRanges& set, uint64_t address) {
  return std::upper_bound(set.begin(), set.end(), address,
                          [](uint64_t at, const PageRange& range) { return at < range.end; });
}

}  // namespace

void append_range(PageRanges* ranges, PageRange range) {
  if (!ranges->empty() && ranges->back().end == range.start) {
    ranges->back().end = range.end;
  } else {
    ranges->push_back(range);
  }
}

void append_all(PageRanges* ranges, const PageRanges& more) {
  ranges->insert(ranges->end(), more.begin(), more.end());
}

PageRanges normalised(PageRanges ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const PageRange& a, const PageRange& b) { return a.start < b.start; });
  PageRanges set;
  for (const PageRange& range : ranges) {
    if (range.empty()) {
      continue;
    }
    if (!set.empty() && range.start <= set.back().end) {
      set.back().end = std::max(set.back().end, range.end);
    } else {
      set.push_back(range);
    }
  }
  return set;
}

PageRanges united(const PageRanges& a, const PageRanges& b) {
  PageRanges all = a;
  all.insert(all.end(), b.begin(), b.end());
  return normalised(std::move(all));
}

PageRanges intersected(const PageRanges& a, const PageRanges& b) {
  PageRanges set;
  if (a.empty() || b.empty()) {
    return set;
  }
  auto x = first_behind(a, b.front().start);
  auto y = first_behind(b, a.front().start);
  while (x != a.end() && y != b.end()) {
    const PageRange common = intersect(*x, *y);
    if (!common.empty()) {
      append_range(&set, common);
    }
    if (x->end < y->end) {
      ++x;
    } else {
      ++y;
    }
  }
  return set;
}

PageRanges subtracted(const PageRanges& a, const PageRanges& b) {
  PageRanges set;
  auto hole = a.empty() ? b.end() : first_behind(b, a.front().start);
  for (PageRange rest : a) {
    while (hole != b.end() && hole->end <= rest.start) {
      ++hole;
    }
    for (auto next = hole; next != b.end() && next->start < rest.end; ++next) {
      if (next->start > rest.start) {
        append_range(&set, {rest.start, next->start});
      }
      rest.start = next->end;
    }
    if (!rest.empty()) {
      append_range(&set, rest);
    }
  }
  return set;
}

uint64_t pages_of(const PageRanges& ranges) {
  uint64_t pages = 0;
  for (const PageRange& range : ranges) {
    pages += range.pages();
  }
  return pages;
}

}  // namespace sluice
