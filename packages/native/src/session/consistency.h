// How the last pages of a target that goes on are kept as they were under freeze: by copying those
// that were written, or by a twin, whose making costs by the pages that exist. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernel/memory_rates.h"

namespace sluice {

enum class Consistency { kAuto, kCopy, kTwin };

struct ConsistencyCosts {
  Consistency wish = Consistency::kAuto;
  MemoryRates rates;
  // Pages that a twin shares with the target, and those of them that are in huge pages.
  uint64_t own_pages = 0;
  uint64_t huge_pages = 0;
  size_t lanes = 1;
  // Pages that can be copied without waiting for the disk, and what the disk needs for one.
  uint64_t room_pages = 0;
  double drain_us = 4;  // 1 GB/s
};

struct ConsistencyChoice {
  bool twin = false;
  std::string reason;  // for people
};

// Microseconds of freeze that each way takes, beside what both do.
double copy_cost_us(const ConsistencyCosts& costs, uint64_t pages);
double twin_cost_us(const ConsistencyCosts& costs);

// For a freeze in which so many pages have to be taken.
ConsistencyChoice choose_consistency(const ConsistencyCosts& costs, uint64_t pages);

}  // namespace sluice
