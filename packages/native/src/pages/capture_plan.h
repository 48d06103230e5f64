// What each VMA contributes to an image: the rules of docs/image-format.md.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/page_ranges.h"
#include "kernel/proc_maps.h"
#include "pages/mapped_file.h"
#include "pages/page_scan.h"

namespace sluice {

enum class VmaKind {
  kAnonymous,
  kPrivateFile,
  kSharedFile,
  kSharedMemory,
  kDeletedFile,
  kVdso,
  kExcluded,
};
// As lib/contract.ts spells it.
const char* vma_kind_name(VmaKind kind);

struct PlannedVma {
  Mapping mapping;
  VmaKind kind = VmaKind::kAnonymous;
  std::string left_out;  // why, for kExcluded
  std::optional<MappedFile> file;
};

// A part of the address space to be captured.
struct CaptureItem {
  PageRange range;
  // Capture the pages that match; without it, all of the range.
  std::optional<PageFilter> filter;
  // Pages that the protection hides from ordinary reads.
  bool forced = false;
  // Memory that only the process itself writes to, so that a tracker sees all of it. The range is
  // one mapping.
  bool trackable = false;
  // Nobody writes to it.
  bool constant = false;
};

// The same page of shared memory, seen at a second address.
struct Alias {
  uint64_t address = 0;
  uint64_t source = 0;  // where it was captured
  uint64_t pages = 0;
};

struct CapturePlan {
  std::vector<PlannedVma> vmas;    // ascending
  std::vector<CaptureItem> items;  // ascending, not overlapping
  std::vector<Alias> aliases;
  std::vector<std::string> warnings;
  // Shared memory of which pages may exist that are not taken; of these mappings only what is taken
  // is known.
  PageRanges incomplete;
};

// Reads the maps of `pid` and decides. `files` keeps what it learns for the next time. A mapping
// whose start is in `ignored` is not the target's (the helpers' scratch). Under a freeze `ask` is
// kNo.
CapturePlan make_plan(pid_t pid, MappedFiles* files, const std::vector<uint64_t>& ignored, Ask ask);

// All that is mapped, one range for each mapping.
PageRanges mappings_of(const CapturePlan& plan);

// The kind of one mapping, and for kExcluded why; pure. `file` is what is behind it, if known.
PlannedVma classify(const Mapping& mapping, const std::optional<MappedFile>& file);

}  // namespace sluice
