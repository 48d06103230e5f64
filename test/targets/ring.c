// Lets the kernel write to its memory through a registered buffer, past its page tables: each
// command "read N" fills the buffer with the byte N by io_uring.
#include "target.h"

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

enum { kBytes = 64 * 1024 };

static unsigned* field(char* ring, unsigned offset) { return (unsigned*)(ring + offset); }

int main(void) {
  struct io_uring_params params = {0};
  const int fd = (int)syscall(SYS_io_uring_setup, 4, &params);
  if (fd < 0) {
    printf("{\"pid\":%d,\"absent\":\"io_uring\"}\n", getpid());
    fflush(stdout);
    return 0;
  }
  const size_t bytes = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
  char* ring = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
  struct io_uring_sqe* entries =
      mmap(NULL, 4 * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
  char* buffer = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char* source = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  FILE* file = tmpfile();
  if (ring == MAP_FAILED || entries == MAP_FAILED || buffer == MAP_FAILED || source == MAP_FAILED ||
      file == NULL) {
    die("set-up");
  }
  memset(buffer, 1, kBytes);
  const struct iovec registered = {buffer, kBytes};
  if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS, &registered, 1) != 0) {
    die("io_uring_register");
  }
  printf("{\"pid\":%d,\"memory\":\"0x%lx\",\"bytes\":%d}\n", getpid(), (unsigned long)buffer,
         kBytes);
  fflush(stdout);
  char line[64];
  while (next_command(line, sizeof line)) {
    int byte = 0;
    if (sscanf(line, "read %d", &byte) != 1) {
      errno = EINVAL;
      die("no such command: %s", line);
    }
    memset(source, byte, kBytes);
    if (pwrite(fileno(file), source, kBytes, 0) != kBytes) {
      die("pwrite");
    }
    const unsigned tail = *field(ring, params.sq_off.tail);
    const unsigned slot = tail & *field(ring, params.sq_off.ring_mask);
    entries[slot] = (struct io_uring_sqe){.opcode = IORING_OP_READ_FIXED,
                                          .fd = fileno(file),
                                          .addr = (uint64_t)buffer,
                                          .len = kBytes};
    field(ring, params.sq_off.array)[slot] = slot;
    __atomic_store_n(field(ring, params.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1) {
      die("io_uring_enter");
    }
    const unsigned head = *field(ring, params.cq_off.head);
    const struct io_uring_cqe* done = (const struct io_uring_cqe*)(ring + params.cq_off.cqes) +
                                      (head & *field(ring, params.cq_off.ring_mask));
    const int result = done->res;
    __atomic_store_n(field(ring, params.cq_off.head), head + 1, __ATOMIC_RELEASE);
    printf("{\"ok\":%s}\n", result == kBytes ? "true" : "false");
    fflush(stdout);
  }
  return 0;
}
