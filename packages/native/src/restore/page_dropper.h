// Takes away the pages that a frozen process has and an image has not.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "base/page_range.h"
#include "pages/page_scan.h"
#include "restore/mapping_calls_remote.h"
#include "restore/page_writer.h"
#include "restore/restore_plan.h"

namespace sluice {

// All in the tracer task of the helper behind `calls`. What it is made of must outlive it.
class PageDropper {
 public:
  // `kept`, ascending and not overlapping, is not touched: what is stored or was left out.
  PageDropper(pid_t pid, const std::vector<PageRange>& kept, PageScan* scan, MappingCalls* calls,
              PageWriter* writer)
      : pid_(pid), kept_(kept), scan_(scan), calls_(calls), writer_(writer) {}

  // Returns how many pages it took away. Throws SYSTEM.
  uint64_t drop(const WantedVma& vma);

 private:
  uint64_t drop_private(const WantedVma& vma);
  uint64_t clear_object(const WantedVma& vma);
  void refill(const WantedVma& vma, PageRange range);

  pid_t pid_;
  const std::vector<PageRange>& kept_;
  PageScan* scan_;
  MappingCalls* calls_;
  PageWriter* writer_;
};

}  // namespace sluice
