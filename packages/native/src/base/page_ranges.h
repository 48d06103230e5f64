// Sets of pages as lists of ranges: ascending, not overlapping, not touching.
#pragma once

#include <vector>

#include "base/page_range.h"

namespace sluice {

using PageRanges = std::vector<PageRange>;

// Adds `range` to the end of `ranges`, joining it with the last one where they touch.
void append_range(PageRanges* ranges, PageRange range);
// As they are, in any order.
void append_all(PageRanges* ranges, const PageRanges& more);

// A set from ranges in any order, which may overlap.
PageRanges normalised(PageRanges ranges);

PageRanges united(const PageRanges& a, const PageRanges& b);
PageRanges intersected(const PageRanges& a, const PageRanges& b);
// What is in `a` and not in `b`.
PageRanges subtracted(const PageRanges& a, const PageRanges& b);

uint64_t pages_of(const PageRanges& ranges);

}  // namespace sluice
