// io_uring instances of a process, as far as they write to its memory past its page tables.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/page_ranges.h"

namespace sluice {

// Names in /proc/PID/fd of its io_uring instances; none if it is gone or they may not be looked at.
std::vector<std::string> list_rings(pid_t pid);

// Pages of the buffers that are registered with these instances (io_uring_register(2),
// IORING_REGISTER_BUFFERS): the kernel has them pinned, and what it reads into them leaves no mark
// in a page table.
PageRanges registered_buffers(pid_t pid, const std::vector<std::string>& rings);

// Pure part of it: the buffers in the text of a file in /proc/PID/fdinfo, in any order.
PageRanges parse_registered_buffers(std::string_view text);

}  // namespace sluice
