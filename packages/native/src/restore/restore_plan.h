// Which system calls bring the mappings of a process back to those of an image. Pure: maps in,
// calls out, and whatever no call can bring back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/page_range.h"
#include "kernel/proc_maps.h"
#include "pages/capture_plan.h"
#include "pages/mapped_file.h"

namespace sluice {

// A mapping as the image has it.
struct WantedVma {
  Mapping mapping;
  VmaKind kind = VmaKind::kAnonymous;
  std::string flags;  // VmFlags, "" if not known
  std::optional<MappedFile> file;

  bool is_private() const { return kind == VmaKind::kAnonymous || kind == VmaKind::kPrivateFile; }
  // All of it is written, whatever its object has in it now.
  bool is_object() const { return kind == VmaKind::kSharedMemory || kind == VmaKind::kDeletedFile; }
  PageRange range() const { return {mapping.start, mapping.end}; }
};

// A mapping as the process has it.
struct PresentVma {
  Mapping mapping;
  std::string flags;  // VmFlags, "" if not known
};

// The ends of the area that brk(2) moves.
struct HeapBounds {
  uint64_t start = 0;
  uint64_t end = 0;  // the program break
};

struct RestoreCall {
  enum class Kind {
    kMapAnonymous,
    kMapFile,
    kUnmap,
    kBreak,  // to range.end, from range.start
    kProtect,
    kAdvise,
    kLock,
    kUnlock,
    kName,
  };
  Kind kind = Kind::kUnmap;
  PageRange range;
  // Nothing of the process is lost by it, so that it can be undone.
  bool undoable = false;
  // It changes how memory behaves, not what is there: its failure is only worth a warning.
  bool optional = false;
  int protection = 0;     // kMapAnonymous, kMapFile, kProtect
  int map_flags = 0;      // kMapAnonymous, kMapFile
  size_t wanted = 0;      // kMapFile: index of the VMA
  uint64_t offset = 0;    // kMapFile
  int advice = 0;         // kAdvise
  std::string name = {};  // kName, "" for none
};
const char* restore_call_name(RestoreCall::Kind kind);

struct RestorePlan {
  // In the order to be made; those that can be undone come first.
  std::vector<RestoreCall> calls;
  // What differs and cannot be brought back, in words. With any of these nothing may be done.
  std::vector<std::string> mismatches;
};

// Both lists ascending and without overlaps.
RestorePlan plan_restore(const std::vector<PresentVma>& present,
                         const std::vector<WantedVma>& wanted, HeapBounds heap);

// Calls that map one VMA as a whole anew, over whatever is there; none if that cannot be done.
std::vector<RestoreCall> plan_anew(const std::vector<WantedVma>& wanted, size_t index);

// The two map the same object in the same place: what differs is no more than the protection, a
// name, or how much of it.
bool maps_same(const Mapping& a, const Mapping& b);

// "7f0000001000-7f0000002000 /some/path"
std::string describe_range(PageRange range, const Mapping& mapping);

// Parts of `range` that none of `holes` (ascending, not overlapping) covers.
std::vector<PageRange> without(PageRange range, const std::vector<PageRange>& holes);

}  // namespace sluice
