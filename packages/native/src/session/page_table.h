// The page table of an image, from what the drains noted (docs/image-format.md).
#pragma once

#include <cstdint>
#include <vector>

#include "base/page_ranges.h"
#include "pages/capture_plan.h"
#include "pipe/shard_file.h"

namespace sluice {

struct PageTable {
  std::vector<StoredRun> runs;  // ascending by address, not overlapping
  uint64_t stored_pages = 0;
  uint64_t aliased_pages = 0;
  uint64_t parent_pages = 0;
};

// Instead of the number of a shard: these pages are in the parent image.
inline constexpr uint32_t kInParent = 0xffffffff;

// Sorts and joins `runs`, and adds a run for every alias whose source was stored, and for every
// range of `in_parent`, none of which may be stored.
PageTable make_page_table(std::vector<StoredRun> runs, const std::vector<Alias>& aliases,
                          const PageRanges& in_parent = {});

// The bytes of the file: records of 24 bytes, little-endian.
std::vector<uint8_t> encode_page_table(const std::vector<StoredRun>& runs);

}  // namespace sluice
