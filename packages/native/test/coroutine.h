// Leaves the [stack] of the main thread for another one, as coroutines and goroutines do.
#pragma once

#include <ucontext.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "check.h"
#include "kernel/proc_maps.h"

namespace sluice::test {

inline Mapping main_stack_of(pid_t pid) {
  for (const Mapping& m : read_maps(pid)) {
    if (m.path == "[stack]") {
      return m;
    }
  }
  throw Failure{__FILE__, __LINE__, "no [stack]"};
}

// Of the calling main thread: 192 KiB below what it uses of its [stack], down to the start of that,
// get these bytes.
__attribute__((noinline, no_sanitize("address"))) inline void fill_unused_stack(uint8_t value) {
  char* const here = static_cast<char*>(__builtin_frame_address(0));
  // The stack grows to where it is used.
  *static_cast<volatile char*>(here - 196608) = 0;
  const uint64_t start = main_stack_of(::getpid()).start;
  const uint64_t end = reinterpret_cast<uint64_t>(here) - 16384;
  for (uint64_t at = start; at < end; ++at) {
    *reinterpret_cast<volatile uint8_t*>(at) = value;
  }
}

// Runs `work` on a stack of its own.
template <typename Work>
void on_coroutine(Work work) {
  std::vector<char> stack(262144);
  ucontext_t back;
  ucontext_t context;
  static Work* running;
  running = &work;
  CHECK_EQ(::getcontext(&context), 0);
  context.uc_stack.ss_sp = stack.data();
  context.uc_stack.ss_size = stack.size();
  context.uc_link = &back;
  ::makecontext(&context, [] { (*running)(); }, 0);
  CHECK_EQ(::swapcontext(&back, &context), 0);
}

}  // namespace sluice::test
