// The page table against a naive map of page to place.
#include "session/page_table.h"

#include <algorithm>
#include <map>

#include "check.h"
#include "tools.h"

namespace sluice::test {
namespace {

using Place = std::pair<uint32_t, uint64_t>;  // shard, offset
using Places = std::map<uint64_t, Place>;     // by address

void add_pages(Places* places, const StoredRun& run) {
  for (uint64_t i = 0; i < run.pages; ++i) {
    const bool fresh =
        places->emplace(run.address + i * kPageBytes, Place{run.shard, run.offset + i * kPageBytes})
            .second;
    CHECK(fresh);
  }
}

Places pages_of(const std::vector<StoredRun>& runs) {
  Places places;
  for (const StoredRun& run : runs) {
    add_pages(&places, run);
  }
  return places;
}

// Pieces that often continue one another in address, shard and offset, in any order.
std::vector<StoredRun> random_runs(Random& random) {
  std::vector<StoredRun> runs;
  uint64_t address = kPageBytes * (1 + below(random, 10));
  uint64_t ends[3] = {};
  uint32_t shard = 0;
  for (uint64_t left = below(random, 60); left > 0; --left) {
    address += below(random, 3) == 0 ? kPageBytes * below(random, 5) : 0;
    shard = below(random, 4) == 0 ? static_cast<uint32_t>(below(random, 3)) : shard;
    ends[shard] += below(random, 5) == 0 ? kPageBytes : 0;
    const auto pages = static_cast<uint32_t>(1 + below(random, 6));
    runs.push_back({address, pages, shard, ends[shard]});
    address += pages * kPageBytes;
    ends[shard] += pages * kPageBytes;
  }
  std::shuffle(runs.begin(), runs.end(), random);
  return runs;
}

void check_normal(const std::vector<StoredRun>& runs) {
  for (size_t i = 1; i < runs.size(); ++i) {
    const StoredRun& a = runs[i - 1];
    const StoredRun& b = runs[i];
    const uint64_t bytes = uint64_t{a.pages} * kPageBytes;
    CHECK(a.address + bytes <= b.address);
    const bool joinable =
        a.address + bytes == b.address && a.shard == b.shard && a.offset + bytes == b.offset;
    CHECK(!joinable);
  }
}

void check_seed(uint64_t seed) {
  Random random(seed);
  const std::vector<StoredRun> runs = random_runs(random);
  const Places stored = pages_of(runs);
  Places expected = stored;
  std::vector<Alias> aliases;
  // Some overlap in their sources, some reach beyond what is stored; some touch each other.
  uint64_t at = kPageBytes * 4096;
  for (uint64_t left = below(random, 12); left > 0; --left) {
    const Alias alias{at, kPageBytes * below(random, 220), 1 + below(random, 40)};
    aliases.push_back(alias);
    for (uint64_t i = 0; i < alias.pages; ++i) {
      const auto found = stored.find(alias.source + i * kPageBytes);
      if (found != stored.end()) {
        expected[alias.address + i * kPageBytes] = found->second;
      }
    }
    at += (alias.pages + below(random, 2)) * kPageBytes;
  }
  std::shuffle(aliases.begin(), aliases.end(), random);
  const PageTable table = make_page_table(runs, aliases);
  check_normal(table.runs);
  CHECK(pages_of(table.runs) == expected);
  CHECK_EQ(table.stored_pages, stored.size());
  CHECK_EQ(table.aliased_pages, expected.size() - stored.size());
}

}  // namespace

TEST(page_table_random_runs_and_aliases) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    try {
      check_seed(seed);
    } catch (Failure& failure) {
      failure.what += ", seed " + std::to_string(seed);
      throw;
    }
  }
}

TEST(page_table_of_nothing) {
  const PageTable table = make_page_table({}, {{kPageBytes, 0, 5}});
  CHECK(table.runs.empty());
  CHECK_EQ(table.stored_pages, 0);
  CHECK_EQ(table.aliased_pages, 0);
  CHECK(encode_page_table({}).empty());
}

TEST(page_table_does_not_join_more_pages_than_a_record_holds) {
  const uint32_t half = 0x80000000;
  const uint64_t bytes = uint64_t{half} * kPageBytes;
  const PageTable two = make_page_table({{bytes, half, 0, bytes}, {0, half, 0, 0}}, {});
  CHECK_EQ(two.runs.size(), 2);
  CHECK_EQ(two.runs[1].address, bytes);
  CHECK_EQ(two.stored_pages, uint64_t{half} * 2);
  const PageTable one = make_page_table({{bytes, half - 1, 0, bytes}, {0, half, 0, 0}}, {});
  CHECK_EQ(one.runs.size(), 1);
  CHECK_EQ(one.runs[0].pages, 0xffffffffu);
}

TEST(page_table_encoding) {
  const std::vector<uint8_t> bytes = encode_page_table(
      {{0x7f12345678901000, 0x01020304, 0x05060708, 0x1112131415161718}, {1, 2, 3, 4}});
  const std::vector<uint8_t> expected = {
      0x00, 0x10, 0x90, 0x78, 0x56, 0x34, 0x12, 0x7f,  // address
      0x04, 0x03, 0x02, 0x01,                          // pages
      0x08, 0x07, 0x06, 0x05,                          // shard
      0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,  // offset
      1,    0,    0,    0,    0,    0,    0,    0,     //
      2,    0,    0,    0,    3,    0,    0,    0,     //
      4,    0,    0,    0,    0,    0,    0,    0,
  };
  CHECK_EQ(bytes, expected);
}

}  // namespace sluice::test
