// A seccomp filter, as containers and browsers have them.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "check.h"

namespace sluice::test {

// From now on this is what comes of any of these calls. Uses no heap, which would make such calls
// itself: a sanitizer's runtime maps memory to keep the stack of a `free` in, by chance.
inline void answer(std::initializer_list<long> calls, uint32_t action) {
  constexpr size_t kMostCalls = 16;
  CHECK(calls.size() <= kMostCalls);
  std::array<sock_filter, 2 * kMostCalls + 2> program;
  sock_filter* end = program.data();
  *end++ = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  for (const long call : calls) {
    *end++ = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1);
    *end++ = BPF_STMT(BPF_RET | BPF_K, action);
  }
  *end++ = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  const sock_fprog filter{static_cast<unsigned short>(end - program.data()), program.data()};
  CHECK_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  CHECK_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
}

inline void kill_on(std::initializer_list<long> calls) { answer(calls, SECCOMP_RET_KILL_PROCESS); }

// All that an attach makes in a target, and a few more.
inline void answer_all_that_helpers_do(uint32_t action) {
  answer({SYS_mmap, SYS_munmap, SYS_madvise, SYS_clone, SYS_clone3, SYS_wait4, SYS_prctl,
          SYS_close_range, SYS_pipe2, SYS_vmsplice, SYS_getppid},
         action);
}
inline void kill_on_all_that_helpers_do() { answer_all_that_helpers_do(SECCOMP_RET_KILL_PROCESS); }
inline void fail_all_that_helpers_do() { answer_all_that_helpers_do(SECCOMP_RET_ERRNO | EPERM); }

}  // namespace sluice::test
