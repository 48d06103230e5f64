#include "session/page_table.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace sluice {
namespace {

static_assert(std::endian::native == std::endian::little, "records are copied as they are");
static_assert(sizeof(StoredRun) == 24);

uint64_t end_of(const StoredRun& run) { return run.address + uint64_t{run.pages} * kPageBytes; }

// In the shard; what is in the parent has no place there.
bool follows(const StoredRun& last, const StoredRun& run) {
  return last.shard == kInParent || last.offset + uint64_t{last.pages} * kPageBytes == run.offset;
}

void sort_and_join(std::vector<StoredRun>* runs) {
  std::sort(runs->begin(), runs->end(),
            [](const StoredRun& a, const StoredRun& b) { return a.address < b.address; });
  size_t kept = 0;
  for (const StoredRun& run : *runs) {
    if (kept > 0) {
      StoredRun& last = (*runs)[kept - 1];
      if (end_of(last) == run.address && last.shard == run.shard && follows(last, run) &&
          uint64_t{last.pages} + run.pages <= UINT32_MAX) {
        last.pages += run.pages;
        continue;
      }
    }
    (*runs)[kept++] = run;
  }
  runs->resize(kept);
}

// The stored parts of the alias's source, moved to the alias's address.
void add_alias(const std::vector<StoredRun>& stored, const Alias& alias,
               std::vector<StoredRun>* added) {
  const PageRange source{alias.source, alias.source + alias.pages * kPageBytes};
  auto run = std::upper_bound(stored.begin(), stored.end(), source.start,
                              [](uint64_t at, const StoredRun& r) { return at < end_of(r); });
  for (; run != stored.end() && run->address < source.end; ++run) {
    const PageRange part = intersect({run->address, end_of(*run)}, source);
    added->push_back({alias.address + (part.start - source.start),
                      static_cast<uint32_t>(part.pages()), run->shard,
                      run->offset + (part.start - run->address)});
  }
}

}  // namespace

PageTable make_page_table(std::vector<StoredRun> runs, const std::vector<Alias>& aliases,
                          const PageRanges& in_parent) {
  PageTable table;
  sort_and_join(&runs);
  for (const StoredRun& run : runs) {
    table.stored_pages += run.pages;
  }
  std::vector<StoredRun> added;
  for (const Alias& alias : aliases) {
    add_alias(runs, alias, &added);
  }
  for (const StoredRun& run : added) {
    table.aliased_pages += run.pages;
  }
  runs.insert(runs.end(), added.begin(), added.end());
  for (const PageRange& range : in_parent) {
    table.parent_pages += range.pages();
    for (uint64_t at = range.start, left = range.pages(); left > 0;) {
      const uint64_t pages = std::min<uint64_t>(left, UINT32_MAX);
      runs.push_back({at, static_cast<uint32_t>(pages), kInParent, 0});
      at += pages * kPageBytes;
      left -= pages;
    }
  }
  sort_and_join(&runs);
  table.runs = std::move(runs);
  return table;
}

std::vector<uint8_t> encode_page_table(const std::vector<StoredRun>& runs) {
  std::vector<uint8_t> bytes(runs.size() * sizeof(StoredRun));
  if (!runs.empty()) {
    std::memcpy(bytes.data(), runs.data(), bytes.size());
  }
  return bytes;
}

}  // namespace sluice
