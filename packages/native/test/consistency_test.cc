#include "session/consistency.h"

#include "check.h"

namespace sluice::test {
namespace {

constexpr uint64_t kGib = 262'144;

// About what was measured on the machine of docs/benchmarks.md.
ConsistencyCosts costs_of(uint64_t own_pages, uint64_t huge_pages = 0) {
  ConsistencyCosts costs;
  costs.rates = {0.7, 0.08};
  costs.own_pages = own_pages;
  costs.huge_pages = huge_pages;
  costs.lanes = 2;
  costs.room_pages = 16'384;
  return costs;
}

}  // namespace

TEST(consistency_takes_the_shorter) {
  const ConsistencyCosts costs = costs_of(kGib);
  CHECK(!choose_consistency(costs, 0).twin);
  CHECK(!choose_consistency(costs, kGib / 100).twin);
  CHECK(choose_consistency(costs, kGib / 10).twin);
  CHECK(choose_consistency(costs, kGib).twin);
  // It changes its mind once.
  bool before = false;
  for (uint64_t pages = 0; pages <= kGib; pages += 1024) {
    const bool twin = choose_consistency(costs, pages).twin;
    CHECK(twin || !before);
    CHECK_EQ(twin, twin_cost_us(costs) < copy_cost_us(costs, pages));
    before = twin;
  }
}

TEST(consistency_counts_what_makes_it_slower) {
  // Huge pages make a twin cheap; pages beyond the room for copies wait for the disk.
  CHECK(twin_cost_us(costs_of(kGib, kGib)) < twin_cost_us(costs_of(kGib)) / 4);
  CHECK(twin_cost_us(costs_of(kGib, 2 * kGib)) <= twin_cost_us(costs_of(kGib, kGib)));
  ConsistencyCosts tight = costs_of(kGib);
  tight.room_pages = 100;
  CHECK(copy_cost_us(tight, 200) > copy_cost_us(costs_of(kGib), 200));
  CHECK_EQ(copy_cost_us(tight, 100), copy_cost_us(costs_of(kGib), 100));
  // More lanes copy faster, and make a twin no faster.
  ConsistencyCosts alone = costs_of(kGib);
  alone.lanes = 1;
  CHECK(copy_cost_us(alone, 1000) > copy_cost_us(costs_of(kGib), 1000));
  CHECK_EQ(twin_cost_us(alone), twin_cost_us(costs_of(kGib)));
}

TEST(consistency_does_as_it_was_asked) {
  ConsistencyCosts costs = costs_of(kGib);
  costs.wish = Consistency::kTwin;
  CHECK(choose_consistency(costs, 0).twin);
  costs.wish = Consistency::kCopy;
  CHECK(!choose_consistency(costs, kGib).twin);
  CHECK_EQ(choose_consistency(costs, kGib).reason, "as asked for");
}

TEST(consistency_rates_are_measured) {
  const MemoryRates& rates = memory_rates();
  CHECK(rates.copy_us > 0.01 && rates.copy_us < 100);
  CHECK(rates.clone_us > 0.001 && rates.clone_us < 100);
  CHECK(&memory_rates() == &rates);
}

}  // namespace sluice::test
