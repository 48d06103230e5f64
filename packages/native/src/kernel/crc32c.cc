#include "kernel/crc32c.h"

#include <array>
#include <cstring>

namespace sluice {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // bits reversed: bit 31 is x^0

using Tables = std::array<std::array<uint32_t, 256>, 8>;

// kTables[k][b]: what byte b does to the remainder when k more bytes follow it.
constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    }
    tables[0][byte] = crc;
  }
  for (size_t k = 1; k < tables.size(); ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace

namespace crc32c_detail {

uint32_t table(uint32_t seed, const void* data, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(data);
  uint32_t crc = ~seed;
  for (; bytes >= 8; bytes -= 8, at += 8) {
    uint64_t word;
    std::memcpy(&word, at, sizeof(word));
    word ^= crc;
    crc = 0;
    for (size_t i = 0; i < 8; ++i) {
      crc ^= kTables[7 - i][word >> (8 * i) & 0xff];
    }
  }
  for (; bytes > 0; --bytes, ++at) {
    crc = (crc >> 8) ^ kTables[0][(crc ^ *at) & 0xff];
  }
  return ~crc;
}

bool cpu_has_sse42() { return __builtin_cpu_supports("sse4.2") != 0; }

}  // namespace crc32c_detail

uint32_t crc32c(uint32_t seed, const void* data, size_t bytes) {
  static const bool kFast = crc32c_detail::cpu_has_sse42();
  return kFast ? crc32c_detail::sse42(seed, data, bytes) : crc32c_detail::table(seed, data, bytes);
}

}  // namespace sluice
