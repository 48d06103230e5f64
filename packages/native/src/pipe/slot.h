// A pipe of a lane, and what is in it. Its capacity is what it can pin, so the number of slots
// times the capacity is the budget.
#pragma once

#include <cstdint>
#include <vector>

#include "base/page_range.h"
#include "base/scoped_fd.h"

namespace sluice {

// Page-aligned memory that costs nothing until it is written to.
class LazyBuffer {
 public:
  LazyBuffer() = default;
  ~LazyBuffer();
  LazyBuffer(const LazyBuffer&) = delete;
  LazyBuffer& operator=(const LazyBuffer&) = delete;
  // Throws SYSTEM.
  char* get(size_t bytes);

 private:
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

struct Slot {
  ScopedFd read_end;
  ScopedFd write_end;
  int helper_fd = -1;  // the write end in the helper, -1 without one
  size_t lane = 0;
  uint64_t capacity = 0;

  // What was fed, in order; whole pages.
  std::vector<PageRange> ranges;
  uint64_t bytes = 0;
  // Bytes copied from the target rest here until the pipe is drained: same offsets as in the pipe.
  LazyBuffer buffer;

  uint64_t room() const { return capacity - bytes; }
  void clear() {
    ranges.clear();
    bytes = 0;
  }
};

// Largest capacity up to `wanted` that the kernel grants this pipe, in bytes (fcntl(2),
// F_SETPIPE_SZ; pipe(7), /proc/sys/fs/pipe-max-size).
uint64_t set_pipe_capacity(int fd, uint64_t wanted);

}  // namespace sluice
