// The exchange with many lanes and drains: all that is fed arrives, the pinned bytes are counted,
// and a failure anywhere ends everybody's waiting.
#include "session/exchange.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <thread>

#include "child.h"
#include "tools.h"

namespace sluice::test {
namespace {

// What hangs is killed after this, which turns it into a failure.
constexpr unsigned kHangSeconds = 120;

struct Crowd {
  explicit Crowd(uint64_t seed)
      : random(seed),
        lanes(1 + below(random, 5)),
        drains(1 + below(random, 5)),
        chunks(below(random, 60)),
        exchange(lanes, drains),
        results(lanes + drains + 1),
        received(drains) {
    for (size_t lane = 0; lane < lanes; ++lane) {
      for (uint64_t left = 1 + below(random, 9); left > 0; --left) {
        slots.push_back(std::make_unique<Slot>());
        slots.back()->lane = lane;
        slots.back()->capacity = (1 + below(random, 8)) * kPageBytes;
        budget += slots.back()->capacity;
      }
    }
  }

  // Everybody passes here at each step; the `fail_at`th pass of all throws.
  void step() {
    if (passes.fetch_add(1) == fail_at) {
      throw Error("IO", 0, "", 0, "chosen to fail");
    }
  }

  template <typename Work>
  void as(size_t who, Work work) {
    try {
      work();
      results[who] = "done";
    } catch (const Error& error) {
      results[who] = error.code();
      exchange.fail();
    }
  }

  void lane(size_t index) {
    Random own(index);
    for (const auto& slot : slots) {
      if (slot->lane == index) {
        exchange.add_empty_slot(slot.get());
      }
    }
    step();
    exchange.lane_wait_gate();
    for (uint64_t i = 0; i < chunks; ++i) {
      step();
      Slot* slot = exchange.take_empty(index);
      if (slot->lane != index || slot->bytes != 0 || !slot->ranges.empty()) {
        throw Error("SYSTEM", 0, "", 0, "a wrong slot");
      }
      const uint64_t start = (uint64_t{index} << 40) + i * 16 * kPageBytes;
      slot->bytes = kPageBytes * (1 + below(own, slot->capacity / kPageBytes));
      slot->ranges.push_back({start, start + slot->bytes});
      sent_bytes += slot->bytes;
      exchange.give_filled(slot);
    }
    step();
    exchange.lane_done();
  }

  void drain(size_t index) {
    step();
    exchange.drain_wait_gate();
    while (Slot* slot = exchange.take_filled()) {
      step();
      for (const PageRange& range : slot->ranges) {
        received[index].push_back(range);
      }
      exchange.give_empty(slot);
    }
    step();
    exchange.drain_done();
  }

  void control() {
    step();
    exchange.wait_ready();
    step();
    exchange.open_gate();
    exchange.wait_lanes(true);
    step();
    exchange.wait_drains(true);
  }

  void run() {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < lanes; ++i) {
      threads.emplace_back([this, i] { as(i, [&] { lane(i); }); });
    }
    for (size_t i = 0; i < drains; ++i) {
      threads.emplace_back([this, i] { as(lanes + i, [&] { drain(i); }); });
    }
    as(lanes + drains, [&] { control(); });
    for (std::thread& thread : threads) {
      thread.join();
    }
  }

  size_t count(const char* result) const {
    return static_cast<size_t>(std::count(results.begin(), results.end(), result));
  }

  Random random;
  size_t lanes;
  size_t drains;
  uint64_t chunks;
  uint64_t budget = 0;
  Exchange exchange;
  std::vector<std::unique_ptr<Slot>> slots;
  std::vector<std::string> results;
  std::vector<std::vector<PageRange>> received;
  std::atomic<uint64_t> passes{0};
  std::atomic<uint64_t> sent_bytes{0};
  uint64_t fail_at = UINT64_MAX;
};

void check_all_arrived(const Crowd& crowd) {
  CHECK_EQ(crowd.count("done"), crowd.results.size());
  std::vector<uint64_t> starts;
  uint64_t bytes = 0;
  for (const auto& part : crowd.received) {
    for (const PageRange& range : part) {
      starts.push_back(range.start);
      bytes += range.bytes();
    }
  }
  std::sort(starts.begin(), starts.end());
  std::vector<uint64_t> expected;
  for (uint64_t lane = 0; lane < crowd.lanes; ++lane) {
    for (uint64_t i = 0; i < crowd.chunks; ++i) {
      expected.push_back((lane << 40) + i * 16 * kPageBytes);
    }
  }
  CHECK_EQ(starts, expected);
  CHECK_EQ(bytes, crowd.sent_bytes.load());
  CHECK(crowd.exchange.pinned_peak_bytes() <= crowd.budget);
  CHECK((crowd.exchange.pinned_peak_bytes() > 0) == (bytes > 0));
}

// One failed; the others were cancelled, or had done all they had to.
void check_failed(Crowd& crowd) {
  CHECK_EQ(crowd.count("IO"), 1);
  CHECK_EQ(crowd.count("IO") + crowd.count("CANCELLED") + crowd.count("done"),
           crowd.results.size());
  CHECK(crowd.results.back() != "done" || crowd.count("CANCELLED") == 0);
  CHECK_THROWS("CANCELLED", crowd.exchange.check());
  CHECK_THROWS("CANCELLED", crowd.exchange.wait_ready());
  CHECK_THROWS("CANCELLED", crowd.exchange.take_empty(0));
  CHECK_THROWS("CANCELLED", crowd.exchange.take_filled());
  CHECK_THROWS("CANCELLED", crowd.exchange.lane_wait_gate());
  CHECK_THROWS("CANCELLED", crowd.exchange.drain_wait_gate());
  CHECK_THROWS("CANCELLED", crowd.exchange.wait_lanes(true));
  CHECK_THROWS("CANCELLED", crowd.exchange.wait_drains(true));
}

template <typename Body>
void for_seeds_without_hang(uint64_t seeds, Body body) {
  const int result = run_in_child([&] {
    for (uint64_t seed = 0; seed < seeds; ++seed) {
      ::alarm(kHangSeconds);
      try {
        body(seed);
      } catch (const Failure& failure) {
        std::printf("  seed %lu: %s:%d: %s\n", seed, failure.file, failure.line,
                    failure.what.c_str());
        std::fflush(stdout);
        return 1;
      }
    }
    return 0;
  });
  CHECK_EQ(result, 0);
}

}  // namespace

TEST(exchange_all_arrives) {
  for_seeds_without_hang(300, [](uint64_t seed) {
    Crowd crowd(seed);
    crowd.run();
    check_all_arrived(crowd);
  });
}

TEST(exchange_failure_anywhere_ends_all) {
  for_seeds_without_hang(600, [](uint64_t seed) {
    // How many steps there are is known from a run that goes well, up to who takes what.
    Crowd sizes(seed);
    sizes.run();
    Crowd crowd(seed);
    crowd.fail_at = below(crowd.random, sizes.passes.load());
    crowd.run();
    check_failed(crowd);
  });
}

TEST(exchange_cancel_anywhere_ends_all) {
  for_seeds_without_hang(300, [](uint64_t seed) {
    Crowd crowd(seed);
    const uint64_t at = below(crowd.random, 2 * crowd.chunks + 1);
    std::thread canceller([&] {
      while (crowd.passes.load() < at) {
        std::this_thread::yield();
      }
      crowd.exchange.fail();
    });
    crowd.run();
    canceller.join();
    CHECK_EQ(crowd.count("done") + crowd.count("CANCELLED"), crowd.results.size());
    CHECK_THROWS("CANCELLED", crowd.exchange.check());
  });
}

TEST(exchange_wakes_a_lane_that_waits_for_the_gate) {
  for_seeds_without_hang(1, [](uint64_t) {
    Exchange exchange(1, 1);
    std::string code;
    std::thread lane([&] {
      try {
        exchange.lane_wait_gate();
      } catch (const Error& error) {
        code = error.code();
      }
    });
    exchange.fail();
    lane.join();
    CHECK_EQ(code, "CANCELLED");
  });
}

// One thread in all roles, against a model: the order of filled slots, what the lanes get back,
// the bytes between them.
TEST(exchange_counts_what_is_pinned) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    Exchange exchange(2, 1);
    std::vector<std::unique_ptr<Slot>> slots;
    size_t empty[2] = {};
    for (size_t i = 0; i < 7; ++i) {
      slots.push_back(std::make_unique<Slot>());
      slots.back()->lane = i % 2;
      exchange.add_empty_slot(slots.back().get());
      ++empty[i % 2];
    }
    std::vector<Slot*> filled, draining;
    uint64_t pinned = 0, peak = 0;
    for (int step = 0; step < 200; ++step) {
      const size_t lane = below(random, 2);
      switch (below(random, 3)) {
        case 0:
          if (empty[lane] > 0) {
            Slot* slot = exchange.take_empty(lane);
            CHECK_EQ(slot->lane, lane);
            CHECK_EQ(slot->bytes, 0);
            CHECK(std::find(filled.begin(), filled.end(), slot) == filled.end());
            --empty[lane];
            slot->bytes = kPageBytes * (1 + below(random, 100));
            slot->ranges.push_back({0, slot->bytes});
            pinned += slot->bytes;
            peak = std::max(peak, pinned);
            exchange.give_filled(slot);
            filled.push_back(slot);
          }
          break;
        case 1:
          if (!filled.empty()) {
            CHECK(exchange.take_filled() == filled.front());
            draining.push_back(filled.front());
            filled.erase(filled.begin());
          }
          break;
        default:
          if (!draining.empty()) {
            const size_t which = below(random, draining.size());
            Slot* slot = draining[which];
            draining.erase(draining.begin() + static_cast<long>(which));
            pinned -= slot->bytes;
            exchange.give_empty(slot);
            CHECK(slot->ranges.empty());
            ++empty[slot->lane];
          }
      }
      if (exchange.pinned_peak_bytes() != peak) {
        throw Failure{__FILE__, __LINE__,
                      "peak " + std::to_string(exchange.pinned_peak_bytes()) + " instead of " +
                          std::to_string(peak) + ", seed " + std::to_string(seed)};
      }
    }
    exchange.lane_done();
    exchange.lane_done();
    for (Slot* slot : filled) {
      CHECK(exchange.take_filled() == slot);
    }
    CHECK(exchange.take_filled() == nullptr);
  }
}

TEST(exchange_marks) {
  Exchange exchange(2, 1);
  CHECK(!exchange.reach(Mark::kLooked));
  CHECK(exchange.reach(Mark::kLooked));
  exchange.reach(Mark::kTwinTried);
  exchange.wait_mark(Mark::kTwinTried);
  std::thread lanes([&] {
    exchange.reach(Mark::kSecured);
    exchange.reach(Mark::kSecured);
  });
  exchange.wait_secured();
  lanes.join();
  std::thread gives_up([&] { exchange.fail(); });
  CHECK_THROWS("CANCELLED", exchange.wait_mark(Mark::kThawed));
  gives_up.join();
}

TEST(exchange_waits_with_a_frozen_target_to_its_limit) {
  using Clock = std::chrono::steady_clock;
  Exchange exchange(1, 1);
  exchange.limit_freeze(Clock::now() + std::chrono::milliseconds(20));
  CHECK_THROWS("FREEZE_LIMIT", exchange.wait_lanes(true));
  CHECK_THROWS("FREEZE_LIMIT", exchange.wait_drains(true));
  CHECK_THROWS("FREEZE_LIMIT", exchange.wait_secured());
  // What is there already needs no time.
  exchange.lane_done();
  exchange.wait_lanes(true);
}

}  // namespace sluice::test
