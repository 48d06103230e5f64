#include "session/consistency.h"

#include <algorithm>
#include <cstdio>

namespace sluice {
namespace {

// Stopping the new process, looking at what it has, waking who waits for it.
constexpr double kTwinBaseUs = 200;
// A huge page is one entry, but the page table that it may be split into is made at once.
constexpr double kHugeShare = 1.0 / 6;

}  // namespace

double copy_cost_us(const ConsistencyCosts& costs, uint64_t pages) {
  const double copy_us = costs.rates.copy_us / static_cast<double>(costs.lanes);
  const uint64_t fitting = std::min(pages, costs.room_pages);
  return static_cast<double>(fitting) * copy_us +
         static_cast<double>(pages - fitting) * std::max(copy_us, costs.drain_us);
}

double twin_cost_us(const ConsistencyCosts& costs) {
  const uint64_t huge = std::min(costs.huge_pages, costs.own_pages);
  const double entries =
      static_cast<double>(costs.own_pages - huge) + static_cast<double>(huge) * kHugeShare;
  return kTwinBaseUs + entries * costs.rates.clone_us;
}

ConsistencyChoice choose_consistency(const ConsistencyCosts& costs, uint64_t pages) {
  if (costs.wish != Consistency::kAuto) {
    return {costs.wish == Consistency::kTwin, "as asked for"};
  }
  const double copy_us = copy_cost_us(costs, pages);
  const double twin_us = twin_cost_us(costs);
  char reason[120];
  std::snprintf(reason, sizeof reason, "about %.1f ms to copy %llu pages, %.1f ms for a twin",
                copy_us / 1000, static_cast<unsigned long long>(pages), twin_us / 1000);
  return {twin_us < copy_us, reason};
}

}  // namespace sluice
