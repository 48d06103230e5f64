#include "kernel/syscalls.h"

#include <fcntl.h>
#include <sys/uio.h>

#include <thread>

#include "base/scoped_fd.h"
#include "check.h"

namespace sluice::test {
namespace {

struct Pipe {
  Pipe() {
    int fds[2];
    CHECK_EQ(sys::call(SYS_pipe2, &fds[0], O_CLOEXEC | O_NONBLOCK), 0);
    read_end.reset(fds[0]);
    write_end.reset(fds[1]);
  }
  ScopedFd read_end;
  ScopedFd write_end;
};

}  // namespace

TEST(syscalls_return_negative_errno) {
  errno = 0;
  CHECK_EQ(sys::call(SYS_read, -1, nullptr, 0), -EBADF);
  CHECK_EQ(sys::call(SYS_getpid), ::getpid());
}

TEST(syscalls_fault_hits_only_its_call) {
  sys::set_faults({{.number = SYS_write, .errnum = ENOSPC}});
  const Pipe pipe;
  CHECK_EQ(sys::call(SYS_write, pipe.write_end.get(), "x", 1), -ENOSPC);
  CHECK_EQ(sys::call(SYS_pwrite64, -1, "x", 1, 0), -EBADF);
  sys::set_faults({});
  CHECK_EQ(sys::call(SYS_write, pipe.write_end.get(), "x", 1), 1);
}

TEST(syscalls_fault_skip_and_times) {
  sys::set_faults({{.number = SYS_getpid, .skip = 2, .times = 3, .errnum = EIO}});
  std::vector<long> results;
  for (int i = 0; i < 7; ++i) {
    results.push_back(sys::call(SYS_getpid));
  }
  const long pid = ::getpid();
  CHECK((results == std::vector<long>{pid, pid, -EIO, -EIO, -EIO, pid, pid}));
}

TEST(syscalls_faults_follow_each_other) {
  sys::set_faults({{.number = SYS_getpid, .times = 1, .errnum = EIO},
                   {.number = SYS_getpid, .times = 1, .errnum = EPERM}});
  CHECK_EQ(sys::call(SYS_getpid), -EIO);
  CHECK_EQ(sys::call(SYS_getpid), -EPERM);
  CHECK_EQ(sys::call(SYS_getpid), ::getpid());
}

TEST(syscalls_cap_bytes) {
  const Pipe pipe;
  sys::set_faults({{.number = SYS_write, .times = 1, .cap_bytes = 3},
                   {.number = SYS_read, .times = 1, .cap_bytes = 2}});
  char buffer[16];
  CHECK_EQ(sys::call(SYS_write, pipe.write_end.get(), "abcdef", 6), 3);
  CHECK_EQ(sys::call(SYS_read, pipe.read_end.get(), &buffer[0], sizeof(buffer)), 2);
  CHECK_EQ(sys::call(SYS_read, pipe.read_end.get(), &buffer[0], sizeof(buffer)), 1);
}

// These count vectors, not bytes: the cut may fall into the middle of one.
TEST(syscalls_cap_bytes_of_vectors) {
  char text[] = "abcdefgh";
  iovec vecs[] = {{text, 3}, {text + 3, 3}, {text + 6, 2}};
  for (const long number : {long{SYS_writev}, long{SYS_vmsplice}}) {
    const Pipe pipe;
    sys::set_faults({{.number = number, .times = 1, .cap_bytes = 4}});
    CHECK_EQ(sys::call(number, pipe.write_end.get(), &vecs[0], 3, 0), 4);
    CHECK_EQ(sys::call(number, pipe.write_end.get(), &vecs[0], 3, 0), 8);
    CHECK_EQ(vecs[1].iov_len, 3u);
  }
  char copy[8] = {};
  iovec local = {copy, sizeof(copy)};
  sys::set_faults({{.number = SYS_process_vm_readv, .times = 1, .cap_bytes = 5}});
  CHECK_EQ(sys::call(SYS_process_vm_readv, ::getpid(), &local, 1, &vecs[0], 3, 0), 5);
  CHECK_EQ(std::string(copy, 5), "abcde");
  CHECK_EQ(copy[5], '\0');
}

TEST(syscalls_vmsplice_that_copies) {
  alignas(4096) static char page[4096];
  iovec vec = {page, 1};
  const Pipe pipe;
  char seen = 0;
  sys::set_faults({{.number = SYS_vmsplice, .copy = true}});
  page[0] = 'a';
  CHECK_EQ(sys::call(SYS_vmsplice, pipe.write_end.get(), &vec, 1, 0), 1);
  page[0] = 'b';
  CHECK_EQ(sys::call(SYS_read, pipe.read_end.get(), &seen, 1), 1);
  CHECK_EQ(seen, 'a');
}

TEST(syscalls_call_restarting) {
  sys::set_faults({{.number = SYS_getpid, .times = 3, .errnum = EINTR}});
  CHECK_EQ(sys::call_restarting(SYS_getpid), ::getpid());
  sys::set_faults({{.number = SYS_getpid, .times = 1, .errnum = EAGAIN}});
  CHECK_EQ(sys::call_restarting(SYS_getpid), -EAGAIN);
}

TEST(syscalls_remote_faults_are_apart) {
  sys::set_faults({{.number = SYS_getpid, .remote = true, .skip = 1, .times = 1, .errnum = EIO}});
  CHECK_EQ(sys::call(SYS_getpid), ::getpid());
  CHECK_EQ(sys::remote_fault(SYS_getpid).errnum, 0);
  CHECK_EQ(sys::remote_fault(SYS_getppid).errnum, 0);
  CHECK_EQ(sys::remote_fault(SYS_getpid).errnum, EIO);
  CHECK_EQ(sys::remote_fault(SYS_getpid).errnum, 0);
}

TEST(syscalls_names) {
  CHECK_EQ(sys::number_of("splice"), SYS_splice);
  CHECK_EQ(sys::number_of("vmsplice"), SYS_vmsplice);
  CHECK_EQ(sys::number_of("no_such_call"), -1);
  CHECK_EQ(sys::number_of(""), -1);
}

// `times` is exact however many threads share the fault.
TEST(syscalls_faults_from_many_threads) {
  constexpr int kCalls = 1000;
  sys::set_faults({{.number = SYS_getpid, .skip = 100, .times = 500, .errnum = EIO}});
  std::atomic<int> hits{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&hits] {
      for (int n = 0; n < kCalls; ++n) {
        hits += sys::call(SYS_getpid) == -EIO ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK_EQ(hits.load(), 500);
}

}  // namespace sluice::test
