// What the kernel keeps of a thread: all that it goes on with, beside memory.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "target/arch.h"
#include "target/tracee.h"

namespace sluice {

// Signal sets have number n as bit n - 1.
struct ThreadState {
  pid_t tid = 0;
  // These two are not known of a thread that is merely frozen; see name_thread.
  pid_t namespace_tid = 0;
  std::string name;
  arch::Registers registers{};
  std::vector<uint8_t> extended_registers;  // layout of NT_X86_XSTATE
  uint64_t signal_mask = 0;
  uint64_t pending_signals = 0;
  uint64_t robust_list = 0;
  std::optional<RseqArea> rseq;
};

// Of a stopped thread of `pid`, whose general registers are known. Takes microseconds, for the
// process stands still meanwhile. What cannot be had, as of a thread that was killed, stays empty.
ThreadState thread_state(pid_t pid, Tracee* tracee, const arch::Registers& registers);

// Adds what is read from /proc, whether the thread is stopped or not. `namespace_pid`: `pid` in its
// own pid namespace.
void name_thread(pid_t pid, pid_t namespace_pid, ThreadState* thread);

}  // namespace sluice
