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
  // Makes the first `bytes` of `all` exist, so that writing to them later is quick.
  void touch(size_t bytes, size_t all);

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
  // All bytes were copied, and none is in the pipe yet: that is left to the drain, since a frozen
  // target need not wait for it.
  bool copied = false;

  // Throws away what is in the pipe, after a failure.
  void discard();

  uint64_t room() const { return capacity - bytes; }
  // Puts bytes [from, from + count) of the buffer into the pipe, by reference: they stay untouched
  // until it is drained. Returns how many went in, possibly fewer, or a negative errno.
  long push(uint64_t from, uint64_t count);
  void clear() {
    ranges.clear();
    bytes = 0;
  }
};

// Largest capacity up to `wanted` that the kernel grants this pipe, in bytes (fcntl(2),
// F_SETPIPE_SZ; pipe(7), /proc/sys/fs/pipe-max-size).
uint64_t set_pipe_capacity(int fd, uint64_t wanted);

}  // namespace sluice
