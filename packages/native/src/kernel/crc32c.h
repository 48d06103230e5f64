// CRC32C (Castagnoli), as in RFC 3720.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice {

// `seed` is 0 to start, or what an earlier call returned to continue behind its bytes.
uint32_t crc32c(uint32_t seed, const void* data, size_t bytes);

// The two ways to get there; for tests. Same contract as crc32c.
namespace crc32c_detail {

uint32_t table(uint32_t seed, const void* data, size_t bytes);

bool cpu_has_sse42();
// Only where cpu_has_sse42().
uint32_t sse42(uint32_t seed, const void* data, size_t bytes);

// Bytes per lane of the interleaved loops of sse42, for tests to aim at.
inline constexpr size_t kLongLane = 8192;
inline constexpr size_t kShortLane = 256;

}  // namespace crc32c_detail
}  // namespace sluice
