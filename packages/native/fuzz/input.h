// What every fuzzer here needs: values out of the bytes that libFuzzer gives, and checks that stay
// on.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#define REQUIRE(condition)                                                         \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                \
    }                                                                              \
  } while (false)

namespace sluice::fuzz {

// Reads from the front; past the end come zeros.
class Input {
 public:
  Input(const uint8_t* data, size_t bytes) : at_(data), end_(data + bytes) {}

  bool empty() const { return at_ == end_; }
  uint8_t byte() { return empty() ? 0 : *at_++; }
  // Below `limit`, which is at most 2^16.
  uint64_t below(uint64_t limit) {
    const uint64_t low = byte();
    return (limit <= 256 ? low : low | uint64_t{byte()} << 8) % limit;
  }
  bool flag() { return (byte() & 1) != 0; }
  uint64_t word() {
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; ++i) {
      value |= uint64_t{byte()} << (8 * i);
    }
    return value;
  }
  std::string_view rest() {
    const std::string_view text(reinterpret_cast<const char*>(at_),
                                static_cast<size_t>(end_ - at_));
    at_ = end_;
    return text;
  }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
};

}  // namespace sluice::fuzz
