#include "kernel/proc_rings.h"

#include "kernel/proc_descriptors.h"
#include "kernel/proc_file.h"

namespace sluice {
namespace {

constexpr char kRing[] = "anon_inode:[io_uring]";

}  // namespace

std::vector<std::string> list_rings(pid_t pid) { return descriptors_to(pid, kRing); }

// Lines like "    0: 0x7f1b9f714000/8192" after "UserBufs:".
PageRanges parse_registered_buffers(std::string_view text) {
  PageRanges buffers;
  TextCursor cursor(text);
  bool in_list = false;
  for (std::string_view line; cursor.take_line(line);) {
    if (!line.starts_with(' ')) {
      in_list = line.starts_with("UserBufs:");
      continue;
    }
    TextCursor fields(line);
    uint64_t index = 0;
    uint64_t start = 0;
    uint64_t bytes = 0;
    fields.skip_blanks();
    if (in_list && fields.take_decimal(index) && fields.take(':') && fields.take(' ') &&
        fields.take('0') && fields.take('x') && fields.take_hex(start) && fields.take('/') &&
        fields.take_decimal(bytes) && bytes > 0 && start < kAddressSpaceEnd &&
        bytes <= kAddressSpaceEnd - start) {
      const uint64_t end = start + bytes + kPageBytes - 1;
      buffers.push_back({start / kPageBytes * kPageBytes, end / kPageBytes * kPageBytes});
    }
  }
  return buffers;
}

PageRanges registered_buffers(pid_t pid, const std::vector<std::string>& rings) {
  PageRanges buffers;
  for (const std::string& ring : rings) {
    const auto text = read_proc_file(pid, "fdinfo/" + ring);
    const PageRanges some = parse_registered_buffers(text.value_or(""));
    buffers.insert(buffers.end(), some.begin(), some.end());
  }
  return normalised(std::move(buffers));
}

}  // namespace sluice
