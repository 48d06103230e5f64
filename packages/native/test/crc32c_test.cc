#include "kernel/crc32c.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "check.h"

namespace sluice::test {
namespace {

using crc32c_detail::kLongLane;
using crc32c_detail::kShortLane;

// Straight from the definition, bit by bit.
uint32_t naive(uint32_t seed, const uint8_t* data, size_t bytes) {
  uint32_t crc = ~seed;
  for (size_t i = 0; i < bytes; ++i) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78 : 0);
    }
  }
  return ~crc;
}

std::vector<uint8_t> random_bytes(std::mt19937_64& random, size_t count) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) {
    byte = static_cast<uint8_t>(random());
  }
  return bytes;
}

using Function = uint32_t (*)(uint32_t, const void*, size_t);

std::vector<Function> implementations() {
  std::vector<Function> all = {crc32c, crc32c_detail::table};
  if (crc32c_detail::cpu_has_sse42()) {
    all.push_back(crc32c_detail::sse42);
  }
  return all;
}

}  // namespace

// RFC 3720, appendix B.4, and the check value of the catalogues.
TEST(crc32c_known_vectors) {
  std::vector<uint8_t> ascending(32);
  std::vector<uint8_t> descending(32);
  for (uint8_t i = 0; i < 32; ++i) {
    ascending[i] = i;
    descending[i] = static_cast<uint8_t>(31 - i);
  }
  const std::vector<uint8_t> zeros(32, 0);
  const std::vector<uint8_t> ones(32, 0xff);
  for (const Function crc : implementations()) {
    CHECK_EQ(crc(0, "123456789", 9), 0xe3069283u);
    CHECK_EQ(crc(0, zeros.data(), 32), 0x8a9136aau);
    CHECK_EQ(crc(0, ones.data(), 32), 0x62a8ab43u);
    CHECK_EQ(crc(0, ascending.data(), 32), 0x46dd794eu);
    CHECK_EQ(crc(0, descending.data(), 32), 0x113fdb5cu);
    CHECK_EQ(crc(0, nullptr, 0), 0u);
    CHECK_EQ(crc(0x12345678, nullptr, 0), 0x12345678u);
  }
}

// Lengths about each place where the loops change, at every alignment.
TEST(crc32c_like_definition) {
  std::mt19937_64 random(7);
  const std::vector<uint8_t> data = random_bytes(random, 6 * kLongLane + 64);
  std::vector<size_t> lengths;
  for (const size_t edge : {size_t{0}, size_t{8}, size_t{64}, 3 * kShortLane, 6 * kShortLane,
                            3 * kLongLane, 3 * kLongLane + 3 * kShortLane, 6 * kLongLane}) {
    for (size_t delta = 0; delta <= 16; ++delta) {
      if (edge + delta >= 8) {
        lengths.push_back(edge + delta - 8);
      }
    }
  }
  for (const size_t length : lengths) {
    const size_t offset = random() % 16;
    const auto seed = static_cast<uint32_t>(random());
    const uint32_t expected = naive(seed, data.data() + offset, length);
    for (const Function crc : implementations()) {
      CHECK_EQ(crc(seed, data.data() + offset, length), expected);
    }
  }
}

TEST(crc32c_random_splits) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 300; ++round) {
    const std::vector<uint8_t> data = random_bytes(random, random() % (4 * kLongLane));
    const uint32_t expected = crc32c_detail::table(0, data.data(), data.size());
    for (const Function crc : implementations()) {
      uint32_t value = 0;
      for (size_t at = 0; at < data.size();) {
        const size_t piece = std::min<size_t>(data.size() - at, random() % 10000);
        value = crc(value, data.data() + at, piece);
        at += piece;
      }
      CHECK_EQ(value, expected);
    }
  }
}

TEST(crc32c_sees_every_bit) {
  std::vector<uint8_t> data(3 * kShortLane + 40, 0);
  const uint32_t before = crc32c(0, data.data(), data.size());
  for (size_t bit = 0; bit < data.size() * 8; ++bit) {
    data[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    CHECK(crc32c(0, data.data(), data.size()) != before);
    data[bit / 8] = 0;
  }
}

TEST(crc32c_sse42_was_tried) {
  if (!crc32c_detail::cpu_has_sse42()) {
    SKIP("CPU without SSE4.2");
  }
}

}  // namespace sluice::test
