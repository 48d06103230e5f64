// Writes pages of an image to the memory of a frozen process, whatever its mappings allow.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/page_range.h"
#include "base/remote_ptr.h"
#include "base/scoped_fd.h"
#include "restore/mapping_calls_remote.h"
#include "restore/restore_plan.h"
#include "target/target_memory.h"

namespace sluice {

// All in the tracer task of the helper behind `calls`. What it is made of must outlive it; `wanted`
// is ascending.
class PageWriter {
 public:
  // Throws PERMISSION.
  PageWriter(const TargetMemory& memory, const std::vector<WantedVma>& wanted, MappingCalls* calls);

  // A kernel may forbid writing to what the process itself may not write to. Throws PERMISSION.
  void require_forced_write(const std::vector<PageRange>& stored) const;
  // What is mapped read-only is written through the object itself, from here on; but for those that
  // under this freeze must not be asked for.
  void open_shared(const MappedFiles& files);
  // What cannot be written.
  std::vector<PageRange> fixed() const;
  // Opens the object of a mapping, through any mapping of it that is there now. An empty descriptor
  // if that is not allowed.
  ScopedFd open_mapped(const WantedVma& vma, int flags) const;

  // These return the number of pages that were written.
  // `bytes` are those of `ranges`, one after the other. Throws RESTORE_INCOMPLETE, SYSTEM.
  uint64_t write(const std::vector<PageRange>& ranges, std::span<const uint8_t> bytes);
  // A part of one mapping. Throws SYSTEM.
  uint64_t write_range(const WantedVma& vma, PageRange range, const uint8_t* bytes);

 private:
  const WantedVma& vma_at(uint64_t address) const;
  uint64_t write_shared(const WantedVma& vma, PageRange range, const uint8_t* bytes);
  bool write_memory(RemotePtr to, const void* from, size_t bytes) const;

  const TargetMemory& memory_;
  const std::vector<WantedVma>& wanted_;
  MappingCalls* calls_;
  ScopedFd mem_;
  // Behind shared memory that it maps read-only.
  std::map<const WantedVma*, ScopedFd> shared_files_;
};

}  // namespace sluice
