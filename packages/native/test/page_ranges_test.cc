// Sets of pages against sets of numbers.
#include "base/page_ranges.h"

#include <set>

#include "check.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr uint64_t kPages = 60;

std::set<uint64_t> members(const PageRanges& ranges) {
  std::set<uint64_t> pages;
  for (const PageRange& range : ranges) {
    for (uint64_t at = range.start; at < range.end; at += kPageBytes) {
      pages.insert(at / kPageBytes);
    }
  }
  return pages;
}

PageRanges anything(Random& random) {
  PageRanges ranges;
  for (uint64_t i = below(random, 12); i > 0; --i) {
    const uint64_t start = below(random, kPages);
    ranges.push_back({start * kPageBytes, (start + below(random, 8)) * kPageBytes});
  }
  return ranges;
}

void check_set(const PageRanges& ranges, const std::set<uint64_t>& expected) {
  CHECK(members(ranges) == expected);
  CHECK_EQ(pages_of(ranges), expected.size());
  for (size_t i = 0; i < ranges.size(); ++i) {
    CHECK(!ranges[i].empty());
    CHECK(i == 0 || ranges[i - 1].end < ranges[i].start);
  }
}

}  // namespace

TEST(page_ranges_are_sets) {
  Random random(1);
  for (int i = 0; i < 20'000; ++i) {
    const PageRanges some = anything(random);
    const PageRanges a = normalised(some);
    const PageRanges b = normalised(anything(random));
    const auto in_a = members(a);
    const auto in_b = members(b);
    check_set(a, members(some));
    std::set<uint64_t> both = in_a;
    both.insert(in_b.begin(), in_b.end());
    check_set(united(a, b), both);
    std::set<uint64_t> common;
    std::set<uint64_t> left;
    for (const uint64_t page : in_a) {
      (in_b.contains(page) ? common : left).insert(page);
    }
    check_set(intersected(a, b), common);
    check_set(subtracted(a, b), left);
  }
}

}  // namespace sluice::test
