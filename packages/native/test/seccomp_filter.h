// A seccomp filter, as containers and browsers have them.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cstddef>
#include <initializer_list>
#include <vector>

#include "check.h"

namespace sluice::test {

// From now on any of these calls kills the process.
inline void kill_on(std::initializer_list<long> calls) {
  std::vector<sock_filter> program;
  program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  for (const long call : calls) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  CHECK_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  CHECK_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
}

// All that an attach makes in a target, and a few more.
inline void kill_on_all_that_helpers_do() {
  kill_on({SYS_mmap, SYS_munmap, SYS_madvise, SYS_clone, SYS_clone3, SYS_wait4, SYS_prctl,
           SYS_close_range, SYS_pipe2, SYS_vmsplice, SYS_getppid});
}

}  // namespace sluice::test
