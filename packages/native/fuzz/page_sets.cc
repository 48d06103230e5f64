// Sets of pages, and the page table of an image, against lists with one entry for each page.
#include <array>
#include <map>

#include "base/page_ranges.h"
#include "input.h"
#include "session/page_table.h"

namespace sluice::fuzz {
namespace {

constexpr uint64_t kPages = 64;
using Set = std::array<bool, kPages>;

uint64_t address_of(uint64_t base, uint64_t page) { return base + page * kPageBytes; }

PageRanges some_ranges(Input* input) {
  PageRanges ranges;
  for (uint64_t left = input->below(8); left > 0; --left) {
    const uint64_t start = input->below(kPages);
    const uint64_t pages = input->below(kPages - start + 1);
    ranges.push_back({address_of(0, start), address_of(0, start + pages)});
  }
  return ranges;
}

Set pages_in(const PageRanges& ranges) {
  Set set{};
  for (const PageRange& range : ranges) {
    for (uint64_t at = range.start; at < range.end; at += kPageBytes) {
      set.at(at / kPageBytes) = true;
    }
  }
  return set;
}

void require_set(const PageRanges& ranges) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    REQUIRE(!ranges[i].empty());
    REQUIRE(i == 0 || ranges[i - 1].end < ranges[i].start);
  }
}

void sets(Input* input) {
  const PageRanges any = some_ranges(input);
  const PageRanges a = normalised(any);
  const PageRanges b = normalised(some_ranges(input));
  const Set in_a = pages_in(a);
  const Set in_b = pages_in(b);
  require_set(a);
  REQUIRE(in_a == pages_in(any));
  const Set both = pages_in(intersected(a, b));
  const Set either = pages_in(united(a, b));
  const Set rest = pages_in(subtracted(a, b));
  require_set(intersected(a, b));
  require_set(united(a, b));
  require_set(subtracted(a, b));
  uint64_t pages = 0;
  for (uint64_t i = 0; i < kPages; ++i) {
    REQUIRE(both[i] == (in_a[i] && in_b[i]));
    REQUIRE(either[i] == (in_a[i] || in_b[i]));
    REQUIRE(rest[i] == (in_a[i] && !in_b[i]));
    pages += in_a[i] ? 1 : 0;
  }
  REQUIRE(pages_of(a) == pages);
}

// Shard and offset of each page.
using Places = std::map<uint64_t, std::pair<uint32_t, uint64_t>>;

Places places_of(const std::vector<StoredRun>& runs) {
  Places places;
  uint64_t last = 0;
  for (const StoredRun& run : runs) {
    REQUIRE(run.pages > 0 && run.address >= last);
    for (uint64_t i = 0; i < run.pages; ++i) {
      const uint64_t offset = run.shard == kInParent ? 0 : run.offset + i * kPageBytes;
      places[run.address + i * kPageBytes] = {run.shard, offset};
    }
    last = run.address + run.pages * kPageBytes;
  }
  return places;
}

// The lower half of the pages is stored, left to the parent or nothing; aliases are in the upper.
void table(Input* input) {
  const uint64_t base = input->flag() ? 0x7fff'ffff'f000 - 4 * kPages * kPageBytes : 0;
  Places expected;
  std::vector<StoredRun> runs;
  PageRanges in_parent;
  uint64_t stored = 0;
  uint64_t left = 0;
  for (uint64_t page = 0; page < kPages / 2; ++page) {
    const uint64_t at = address_of(base, page);
    const uint64_t choice = input->below(8);
    const auto shard = static_cast<uint32_t>(choice / 2);
    const uint64_t offset = address_of(0, choice == 0 ? input->below(kPages) : page);
    if (choice == 7) {
      append_range(&in_parent, {at, at + kPageBytes});
      expected[at] = {kInParent, 0};
      ++left;
    } else if (choice < 6) {
      runs.insert(input->flag() ? runs.begin() : runs.end(), {at, 1, shard, offset});
      expected[at] = {shard, offset};
      ++stored;
    }
  }
  std::vector<Alias> aliases;
  uint64_t aliased = 0;
  for (uint64_t page = kPages / 2; page < kPages && !input->empty();) {
    const uint64_t source = input->below(kPages / 2);
    const uint64_t pages = 1 + input->below(std::min(kPages - page, kPages / 2 - source));
    aliases.push_back({address_of(base, page), address_of(base, source), pages});
    for (uint64_t i = 0; i < pages; ++i) {
      const auto found = expected.find(address_of(base, source + i));
      if (found != expected.end() && found->second.first != kInParent) {
        expected[address_of(base, page + i)] = found->second;
        ++aliased;
      }
    }
    page += pages + input->below(3);
  }
  const PageTable made = make_page_table(runs, aliases, in_parent);
  REQUIRE(made.stored_pages == stored && made.aliased_pages == aliased);
  REQUIRE(made.parent_pages == left);
  REQUIRE(places_of(made.runs) == expected);
  REQUIRE(encode_page_table(made.runs).size() == made.runs.size() * sizeof(StoredRun));
}

}  // namespace

void run(Input input) {
  if (input.flag()) {
    sets(&input);
  } else {
    table(&input);
  }
}

}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  sluice::fuzz::run({data, bytes});
  return 0;
}
