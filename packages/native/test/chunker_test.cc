// The chunker over feeds that come up short, fail on pages and find the pipe full, against a naive
// list of the pages that must be in the slots and of those left out.
#include "pipe/chunker.h"

#include <algorithm>
#include <cerrno>
#include <map>

#include "check.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr uint64_t kBase = 0x10000;
constexpr uint64_t kPages = 200;

// Memory of a target that is not there: what each page holds, and who can read it.
struct Memory {
  explicit Memory(Random& random, uint64_t one_unreadable_in) {
    bytes.resize(kPages * kPageBytes);
    for (uint64_t page = 0; page < kPages; ++page) {
      for (uint64_t i = 0; i < kPageBytes; i += 64) {
        bytes[page * kPageBytes + i] = static_cast<char>(random());
      }
      const bool bad = one_unreadable_in > 0 && below(random, one_unreadable_in) == 0;
      ordinary.push_back(!bad);
      forced.push_back(!bad || below(random, 2) == 0);
    }
  }
  static uint64_t page_of(uint64_t address) { return (address - kBase) / kPageBytes; }
  std::string bytes;
  std::vector<bool> ordinary;
  std::vector<bool> forced;
};

// How a feed behaves beside giving what it can.
struct Manner {
  bool short_pages = false;
  bool short_bytes = false;
  bool full = false;
  bool zero = false;  // says 0 where it cannot read
};

class FakeFeed : public Feed {
 public:
  FakeFeed(const Memory& memory, const std::vector<bool>& readable, Random& random, Manner manner,
           std::map<Slot*, std::string>* pipes)
      : memory_(memory), readable_(readable), random_(random), manner_(manner), pipes_(pipes) {}

  long feed(Slot* slot, std::span<const PageRange> ranges, uint64_t skip) override {
    const bool whole = slot->bytes % kPageBytes == 0;
    if (manner_.full && whole && slot->bytes > 0 && below(random_, 4) == 0) {
      return -EAGAIN;
    }
    std::string out;
    bool stopped = false;
    for (const PageRange& range : ranges) {
      for (uint64_t at = range.start; at < range.end && !stopped; at += kPageBytes) {
        if (skip >= kPageBytes) {
          skip -= kPageBytes;
          continue;
        }
        if (!readable_[Memory::page_of(at)]) {
          stopped = true;
          break;
        }
        out += memory_.bytes.substr(at - kBase + skip, kPageBytes - skip);
        skip = 0;
      }
    }
    if (out.empty()) {
      return manner_.zero ? 0 : -EFAULT;
    }
    size_t count = std::min<uint64_t>(out.size(), slot->room());
    if (manner_.short_bytes && below(random_, 2) == 0) {
      count = 1 + below(random_, count);
    } else if (manner_.short_pages && below(random_, 2) == 0 && count >= kPageBytes) {
      count = kPageBytes * (1 + below(random_, count / kPageBytes));
    }
    (*pipes_)[slot] += out.substr(0, count);
    return static_cast<long>(count);
  }
  const char* call() const override { return "none"; }

 private:
  const Memory& memory_;
  const std::vector<bool>& readable_;
  Random& random_;
  Manner manner_;
  std::map<Slot*, std::string>* pipes_;
};

struct Outcome {
  std::vector<uint64_t> stored;
  std::vector<uint64_t> left_out;
  std::vector<uint64_t> slot_bytes;
};

// A chunker with its slots, which looks at each slot that is handed on.
class Bench {
 public:
  Bench(const Memory& memory, Random& random, Manner manner, std::vector<uint64_t> capacities)
      : memory_(memory),
        ordinary_(memory, memory.ordinary, random, manner, &pipes_),
        forced_(memory, memory.forced, random,
                {manner.short_pages, manner.short_bytes, false, manner.zero}, &pipes_),
        chunker(
            1, &ordinary_, &forced_, [this] { return take(); }, [this](Slot* slot) { give(slot); },
            [this](PageRange range) {
              CHECK_EQ(range.bytes(), kPageBytes);
              outcome.left_out.push_back(range.start);
            }) {
    for (const uint64_t capacity : capacities) {
      slots_.push_back(std::make_unique<Slot>());
      slots_.back()->capacity = capacity;
    }
  }

  Outcome outcome;

 private:
  Slot* take() {
    CHECK(held_ == nullptr);
    held_ = slots_[next_++ % slots_.size()].get();
    CHECK(pipes_[held_].empty());
    return held_;
  }
  void give(Slot* slot) {
    CHECK(slot == held_);
    held_ = nullptr;
    CHECK(slot->bytes <= slot->capacity);
    std::string& pipe = pipes_[slot];
    CHECK_EQ(pipe.size(), slot->bytes);
    uint64_t at = 0;
    for (const PageRange& range : slot->ranges) {
      CHECK(!range.empty());
      CHECK_EQ(range.start % kPageBytes, 0);
      CHECK_EQ(range.end % kPageBytes, 0);
      for (uint64_t page = range.start; page < range.end; page += kPageBytes) {
        CHECK(pipe.compare(at, kPageBytes, memory_.bytes, page - kBase, kPageBytes) == 0);
        outcome.stored.push_back(page);
        at += kPageBytes;
      }
    }
    CHECK_EQ(at, slot->bytes);
    outcome.slot_bytes.push_back(slot->bytes);
    pipe.clear();
    slot->clear();
  }

  const Memory& memory_;
  std::map<Slot*, std::string> pipes_;
  std::vector<std::unique_ptr<Slot>> slots_;
  Slot* held_ = nullptr;
  size_t next_ = 0;
  FakeFeed ordinary_;
  FakeFeed forced_;

 public:
  Chunker chunker;
};

void check_seed(uint64_t seed) {
  Random random(seed);
  const uint64_t kUnreadable[] = {0, 2, 9, 50};
  const Memory memory(random, kUnreadable[below(random, 4)]);
  // A pipe that is full in the middle of a page is another test.
  Manner manner{below(random, 2) == 0, false, below(random, 3) == 0, below(random, 4) == 0};
  manner.short_bytes = !manner.full && below(random, 2) == 0;
  std::vector<uint64_t> capacities;
  for (uint64_t left = 1 + below(random, 4); left > 0; --left) {
    capacities.push_back(kPageBytes << below(random, 6));
  }
  Bench bench(memory, random, manner, capacities);
  std::vector<uint64_t> stored, left_out;
  uint64_t page = 0;
  for (;;) {
    page += below(random, 3) == 0 ? below(random, 10) : 0;
    const uint64_t pages = 1 + below(random, 1 + below(random, 30));
    if (page + pages > kPages) {
      break;
    }
    const bool forced = below(random, 4) == 0;
    const uint64_t start = kBase + page * kPageBytes;
    bench.chunker.add({start, start + pages * kPageBytes}, forced);
    for (uint64_t i = page; i < page + pages; ++i) {
      const bool readable = memory.forced[i] || (!forced && memory.ordinary[i]);
      (readable ? stored : left_out).push_back(kBase + i * kPageBytes);
    }
    page += pages;
  }
  bench.chunker.finish();
  CHECK_EQ(bench.outcome.stored, stored);
  CHECK_EQ(bench.outcome.left_out, left_out);
}

// Gives what its script says.
class Scripted : public Feed {
 public:
  explicit Scripted(std::vector<long> script, const char* call = "none")
      : script_(std::move(script)), call_(call) {}
  const char* call() const override { return call_; }
  long feed(Slot* slot, std::span<const PageRange> ranges, uint64_t skip) override {
    (void)slot;
    skips.push_back(ranges.front().start + skip);
    CHECK(next_ < script_.size());
    return script_[next_++];
  }
  std::vector<uint64_t> skips;

 private:
  std::vector<long> script_;
  const char* call_;
  size_t next_ = 0;
};

// Four pages through feeds that follow scripts. Ranges of the slots handed on, as text.
std::string run_script(Scripted& ordinary, Scripted& forced) {
  Slot slots[2];
  slots[0].capacity = slots[1].capacity = 4 * kPageBytes;
  size_t next = 0;
  std::string text;
  Chunker chunker(
      7, &ordinary, &forced, [&] { return &slots[next++]; },
      [&](Slot* slot) {
        for (const PageRange& range : slot->ranges) {
          text += std::to_string(range.start) + "+" + std::to_string(range.bytes()) + " ";
        }
        text += "| ";
      },
      [&](PageRange page) { text += "-" + std::to_string(page.start) + " "; });
  chunker.add({kPageBytes, 5 * kPageBytes}, false);
  chunker.finish();
  return text;
}

}  // namespace

TEST(chunker_random_runs) {
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    try {
      check_seed(seed);
    } catch (Failure& failure) {
      failure.what += ", seed " + std::to_string(seed);
      throw;
    }
  }
}

TEST(chunker_fills_slots_to_the_brim) {
  Random random(1);
  const Memory memory(random, 0);
  Bench bench(memory, random, {}, {8 * kPageBytes});
  for (uint64_t page = 0; page < kPages; page += 2) {
    const uint64_t start = kBase + page * kPageBytes;
    bench.chunker.add({start, start + kPageBytes}, false);
  }
  bench.chunker.finish();
  std::vector<uint64_t> expected(kPages / 2 / 8, 8 * kPageBytes);
  expected.push_back(kPages / 2 % 8 * kPageBytes);
  CHECK_EQ(bench.outcome.slot_bytes, expected);
}

TEST(chunker_without_pages_takes_no_slot) {
  Random random(1);
  const Memory memory(random, 0);
  Bench bench(memory, random, {}, {kPageBytes});
  bench.chunker.add({kBase, kBase}, false);
  bench.chunker.finish();
  CHECK(bench.outcome.slot_bytes.empty());
}

TEST(chunker_goes_on_where_a_short_feed_ended) {
  Scripted ordinary({5000, 11384});
  Scripted forced({});
  CHECK_EQ(run_script(ordinary, forced), "4096+16384 | ");
  CHECK_EQ(ordinary.skips, (std::vector<uint64_t>{4096, 9096}));
}

TEST(chunker_goes_on_in_another_slot_when_the_pipe_is_full) {
  Scripted ordinary({4096, -EAGAIN, 12288});
  Scripted forced({});
  CHECK_EQ(run_script(ordinary, forced), "4096+4096 | 8192+12288 | ");
}

TEST(chunker_leaves_out_what_nothing_reads) {
  Scripted ordinary({4096, -EFAULT, -EFAULT, 4096});
  Scripted forced({-EFAULT, 1000, 3096});
  CHECK_EQ(run_script(ordinary, forced), "-8192 4096+4096 12288+8192 | ");
}

TEST(chunker_does_without_a_way_that_is_not_there) {
  for (const int errnum : {ENOSYS, EPERM}) {
    Scripted ordinary({4096, -errnum});
    Scripted forced({4096, 8192});
    CHECK_EQ(run_script(ordinary, forced), "4096+16384 | ");
    Scripted none({-errnum});
    Scripted neither({-errnum});
    CHECK_THROWS("SYSTEM", run_script(none, neither));
  }
}

TEST(chunker_reports_what_ends_a_dump) {
  const auto code_of = [](std::vector<long> ordinary, std::vector<long> forced) -> std::string {
    Scripted first(std::move(ordinary), "vmsplice");
    Scripted second(std::move(forced), "pread64");
    try {
      run_script(first, second);
    } catch (const Error& error) {
      return error.code() + " " + error.call() + " " + std::to_string(error.err());
    }
    return "nothing";
  };
  CHECK_EQ(code_of({-ESRCH}, {}), "TARGET_EXITED  0");
  CHECK_EQ(code_of({4096, -ESRCH}, {}), "TARGET_EXITED  0");
  CHECK_EQ(code_of({-ENOMEM}, {}), "SYSTEM vmsplice 12");
  CHECK_EQ(code_of({-EAGAIN}, {}), "SYSTEM vmsplice 11");
  CHECK_EQ(code_of({-EFAULT}, {1000, -EFAULT}), "SYSTEM pread64 14");
  // In the middle of a page there is no way on: a slot holds whole pages.
  CHECK_EQ(code_of({5000, -EAGAIN}, {}), "SYSTEM vmsplice 11");
  CHECK_EQ(code_of({5000, -EFAULT}, {}), "SYSTEM vmsplice 14");
  CHECK_EQ(code_of({5000, 0}, {}), "SYSTEM vmsplice 0");
}

}  // namespace sluice::test
