#include "kernel/proc_rings.h"

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "child.h"
#include "tools.h"

namespace sluice::test {

TEST(proc_rings_parses_buffers) {
  const PageRanges found = parse_registered_buffers(
      "UserFiles:\t1\n    0: 0x1000/1\nUserBufs:\t4\n    0: 0x7f1b9f714000/8192\n"
      "    1: 0x7f1b9f717064/4000\n    2: <none>\n    3: 0x5000/0\nPollList:\n    4: 0x9000/1\n");
  CHECK_EQ(found.size(), size_t{2});
  CHECK_EQ(found[0].start, uint64_t{0x7f1b9f714000});
  CHECK_EQ(found[0].pages(), uint64_t{2});
  CHECK_EQ(found[1].start, uint64_t{0x7f1b9f717000});
  CHECK_EQ(found[1].pages(), uint64_t{2});  // it crosses a page boundary
  CHECK(parse_registered_buffers("").empty());
  // What no process can have is not taken for a range that wraps around.
  CHECK(parse_registered_buffers("UserBufs:\t2\n    0: 0xfffffffffffff000/4095\n"
                                 "    1: 0x1000/18446744073709551614\n")
            .empty());
}

TEST(proc_rings_finds_registered_buffers) {
  constexpr uint64_t kBytes = 4 * kPageBytes;
  Shared<std::atomic<int>> fd;
  void* const memory =
      ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  const Child child([&] {
    io_uring_params params{};
    *fd = static_cast<int>(::syscall(SYS_io_uring_setup, 4, &params));
    const iovec buffer{memory, kBytes};
    if (*fd >= 0 &&
        ::syscall(SYS_io_uring_register, fd->load(), IORING_REGISTER_BUFFERS, &buffer, 1) != 0) {
      *fd = -1;
    }
  });
  ::munmap(memory, kBytes);
  if (*fd < 0) {
    SKIP("io_uring is not to be had");
  }
  const auto rings = list_rings(child.pid());
  CHECK_EQ(rings.size(), size_t{1});
  CHECK_EQ(rings[0], std::to_string(*fd));
  const PageRanges buffers = registered_buffers(child.pid(), rings);
  CHECK_EQ(buffers.size(), size_t{1});
  CHECK_EQ(buffers[0].start, reinterpret_cast<uint64_t>(memory));
  CHECK_EQ(buffers[0].bytes(), kBytes);
}

}  // namespace sluice::test
