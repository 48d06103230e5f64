#include "pipe/slot.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
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

void LazyBuffer::touch(size_t bytes, size_t all) {
  volatile char* memory = get(all);
  for (size_t at = 0; at < std::min(bytes, all); at += kPageBytes) {
    memory[at] = 0;
  }
}

void Slot::discard() {
  char* const nowhere = buffer.get(capacity);
  for (pollfd some{read_end.get(), POLLIN, 0}; ::poll(&some, 1, 0) == 1;) {
    if (::read(read_end.get(), nowhere, capacity) <= 0) {
      break;
    }
  }
  clear();
}

long Slot::push(uint64_t from, uint64_t count) {
  char* start = buffer.get(capacity) + from;
  for (uint64_t done = 0; done < count;) {
    const iovec rest{start + done, count - done};
    const long moved =
        sys::call_restarting(SYS_vmsplice, write_end.get(), &rest, 1, SPLICE_F_NONBLOCK);
    if (moved <= 0) {
      return done > 0 ? static_cast<long>(done) : moved;
    }
    done += static_cast<uint64_t>(moved);
  }
  return static_cast<long>(count);
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
