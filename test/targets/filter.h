// Seccomp filters of the test targets.
#pragma once

#include "target.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

enum { kMostFiltered = 32 };

// Gives calls of `numbers` the action `those`, all others the action `others`. `flags` as
// seccomp(2) has them; a listener stays open.
static inline void filter_calls(const uint32_t* numbers, int count, uint32_t those, uint32_t others,
                                unsigned flags) {
  struct sock_filter program[kMostFiltered + 3];
  if (count > kMostFiltered) {
    die("a filter for so many calls");
  }
  program[0] =
      (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
  for (int i = 0; i < count; i++) {
    program[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[i],
                                                  (uint8_t)(count - i), 0);
  }
  program[1 + count] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, others);
  program[2 + count] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, those);
  struct sock_fprog filter = {(unsigned short)(count + 3), program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    die("no_new_privs");
  }
  // More than 0 is a listener, or a thread that could not be synchronised.
  const long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter);
  if (result < 0 || (result > 0 && (flags & SECCOMP_FILTER_FLAG_NEW_LISTENER) == 0)) {
    die("seccomp");
  }
}
