// CRC32C with the crc32 instruction, which takes 8 bytes per cycle but gives its result only after
// three: so three lanes of the data run side by side and are joined afterwards.
//
//     data   | lane 0 | lane 1 | lane 2 |      crc(0 1 2) = move(move(crc(0)) ^ crc(1)) ^ crc(2)
//
// where move(c) is the remainder after as many zero bytes as a lane has: a multiplication by a
// constant, looked up byte by byte.
//
// This file is compiled for CPUs that may not be there. It uses no inline function of any header:
// the linker could take this file's copy of one for the whole program.
#include "kernel/crc32c.h"

namespace sluice::crc32c_detail {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // bits reversed: bit 31 is x^0
constexpr uint32_t kOne = uint32_t{1} << 31;

constexpr uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = kOne; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) {
      product ^= b;
    }
    b = (b >> 1) ^ ((b & 1) != 0 ? kPolynomial : 0);
  }
  return product;
}

// x^(8 * bytes), the factor by which that many zero bytes change a remainder.
constexpr uint32_t zeros_factor(size_t bytes) {
  uint32_t factor = kOne;
  uint32_t square = kOne >> 8;
  for (; bytes != 0; bytes >>= 1) {
    if ((bytes & 1) != 0) {
      factor = multiply(factor, square);
    }
    square = multiply(square, square);
  }
  return factor;
}

struct MoveTable {
  uint32_t of[4][256];
};

constexpr MoveTable make_move(size_t bytes) {
  MoveTable table{};
  const uint32_t factor = zeros_factor(bytes);
  for (uint32_t k = 0; k < 4; ++k) {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      table.of[k][byte] = multiply(factor, byte << (8 * k));
    }
  }
  return table;
}

constexpr MoveTable kMoveLong = make_move(kLongLane);
constexpr MoveTable kMoveShort = make_move(kShortLane);

uint32_t move(const MoveTable& table, uint32_t crc) {
  return table.of[0][crc & 0xff] ^ table.of[1][crc >> 8 & 0xff] ^ table.of[2][crc >> 16 & 0xff] ^
         table.of[3][crc >> 24];
}

uint64_t step(uint64_t crc, const uint8_t* at) {
  uint64_t word;
  __builtin_memcpy(&word, at, sizeof(word));
  return __builtin_ia32_crc32di(crc, word);
}

// Takes as many triples of lanes as there are.
template <size_t kLane>
uint32_t take_lanes(uint32_t crc, const MoveTable& table, const uint8_t*& at, size_t& bytes) {
  static_assert(kLane % 8 == 0);
  for (; bytes >= 3 * kLane; bytes -= 3 * kLane, at += 3 * kLane) {
    uint64_t crc0 = crc;
    uint64_t crc1 = 0;
    uint64_t crc2 = 0;
    for (const uint8_t* word = at; word != at + kLane; word += 8) {
      crc0 = step(crc0, word);
      crc1 = step(crc1, word + kLane);
      crc2 = step(crc2, word + 2 * kLane);
    }
    crc = move(table, static_cast<uint32_t>(crc0)) ^ static_cast<uint32_t>(crc1);
    crc = move(table, crc) ^ static_cast<uint32_t>(crc2);
  }
  return crc;
}

}  // namespace

uint32_t sse42(uint32_t seed, const void* data, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(data);
  uint32_t crc = take_lanes<kLongLane>(~seed, kMoveLong, at, bytes);
  crc = take_lanes<kShortLane>(crc, kMoveShort, at, bytes);
  for (; bytes >= 8; bytes -= 8, at += 8) {
    crc = static_cast<uint32_t>(step(crc, at));
  }
  for (; bytes > 0; --bytes, ++at) {
    crc = __builtin_ia32_crc32qi(crc, *at);
  }
  return ~crc;
}

}  // namespace sluice::crc32c_detail
