// CRC32C by table and by instruction agree, whole and in parts.
#include "kernel/crc32c.h"

#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace sluice;
  fuzz::Input input(data, bytes);
  const auto seed = static_cast<uint32_t>(input.word());
  const uint64_t cut = input.below(1 << 16);
  const std::string_view text = input.rest();
  const std::string_view head = text.substr(0, cut % (text.size() + 1));
  const std::string_view tail = text.substr(head.size());
  const uint32_t whole = crc32c_detail::table(seed, text.data(), text.size());
  REQUIRE(crc32c(seed, text.data(), text.size()) == whole);
  REQUIRE(crc32c(crc32c(seed, head.data(), head.size()), tail.data(), tail.size()) == whole);
  return 0;
}
