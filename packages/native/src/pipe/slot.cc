#include "pipe/slot.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>

#include "base/error.h"
#include "kernel/syscalls.h"

namespace sluice {

LazyBuffer::~LazyBuffer() {
  if (memory_ != nullptr) {
    munmap(memory_, bytes_);
  }
}

char* LazyBuffer::get(size_t bytes) {
  if (memory_ == nullptr) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      throw Error("SYSTEM", 0, "mmap", errno, "no memory for a buffer");
    }
    memory_ = memory;
    bytes_ = bytes;
  }
  return static_cast<char*>(memory_);
}

uint64_t set_pipe_capacity(int fd, uint64_t wanted) {
  for (uint64_t bytes = wanted; bytes >= kPageBytes; bytes /= 2) {
    const long got = sys::call(SYS_fcntl, fd, F_SETPIPE_SZ, bytes);
    if (got > 0) {
      return static_cast<uint64_t>(got);
    }
  }
  const long got = sys::call(SYS_fcntl, fd, F_GETPIPE_SZ);
  return got > 0 ? static_cast<uint64_t>(got) : kPageBytes;
}

}  // namespace sluice
