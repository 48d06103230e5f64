// The chunker over runs of any form, with memory that cannot be read in places and feeds that give
// less than asked: each page ends in one slot, whole and once, or is left out.
#include "pipe/chunker.h"

#include <cerrno>
#include <deque>
#include <map>

#include "base/error.h"
#include "input.h"

namespace sluice::fuzz {
namespace {

constexpr uint64_t kPages = 256;

enum class Access : uint8_t { kOrdinary, kForced, kNone };

class FakeFeed : public Feed {
 public:
  FakeFeed(Input* input, const std::vector<Access>* access, bool forced)
      : input_(input), access_(access), forced_(forced) {}

  long feed(Slot* slot, std::span<const PageRange> ranges, uint64_t skip) override {
    REQUIRE(!ranges.empty() && skip < ranges[0].bytes() && slot->room() > 0);
    const bool begun = skip % kPageBytes != 0;
    uint64_t bytes = 0;
    for (const PageRange& range : ranges) {
      for (uint64_t at = range.start; at < range.end; at += kPageBytes) {
        if (skip >= kPageBytes) {
          skip -= kPageBytes;
          continue;
        }
        if (!readable(at)) {
          return bytes == 0 ? failure() : cut(slot, bytes);
        }
        bytes += kPageBytes - skip;
        skip = 0;
      }
    }
    return !begun && slot->bytes > 0 && input_->below(16) == 1 && !forced_ ? -EAGAIN
                                                                           : cut(slot, bytes);
  }
  const char* call() const override { return "none"; }

 private:
  bool readable(uint64_t at) const {
    const Access access = access_->at(at / kPageBytes);
    return access == Access::kOrdinary || (forced_ && access == Access::kForced);
  }
  long failure() { return input_->flag() ? 0 : -EFAULT; }
  long cut(const Slot* slot, uint64_t bytes) {
    const uint64_t most = std::min(bytes, slot->room());
    return static_cast<long>(input_->below(4) == 1 ? 1 + input_->below(1 << 16) % most : most);
  }

  Input* input_;
  const std::vector<Access>* access_;
  bool forced_;
};

}  // namespace

void run(Input input) {
  std::vector<Access> access(kPages);
  for (uint64_t holes = input.below(16); holes > 0; --holes) {
    access[input.below(kPages)] = input.flag() ? Access::kForced : Access::kNone;
  }
  FakeFeed ordinary(&input, &access, false);
  FakeFeed forced(&input, &access, true);
  std::map<uint64_t, int> got;
  std::map<uint64_t, int> expected;
  Slot slot;
  bool taken = false;
  const auto take = [&] {
    REQUIRE(!taken);
    taken = true;
    slot.clear();
    slot.capacity = (1 + input.below(8)) * kPageBytes;
    return &slot;
  };
  const auto give = [&](Slot* given) {
    REQUIRE(taken && given->bytes <= given->capacity);
    taken = false;
    REQUIRE(pages_of(given->ranges) * kPageBytes == given->bytes);
    for (const PageRange& range : given->ranges) {
      for (uint64_t at = range.start; at < range.end; at += kPageBytes) {
        ++got[at];
      }
    }
  };
  const auto left_out = [&](PageRange page) {
    REQUIRE(page.bytes() == kPageBytes && access.at(page.start / kPageBytes) == Access::kNone);
    ++got[page.start];
  };
  Chunker chunker(1, &ordinary, &forced, take, give, left_out);
  for (uint64_t page = 0; page < kPages && !input.empty();) {
    const uint64_t pages = std::min(kPages - page, 1 + input.below(32));
    chunker.add({page * kPageBytes, (page + pages) * kPageBytes}, input.flag());
    for (uint64_t i = page; i < page + pages; ++i) {
      expected[i * kPageBytes] = 1;
    }
    page += pages + input.below(3);
  }
  chunker.finish();
  REQUIRE(!taken && got == expected);
}

}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  sluice::fuzz::run({data, bytes});
  return 0;
}
