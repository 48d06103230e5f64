// Gives the threads of a frozen process back the registers and signal masks that an image has.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "target/arch.h"
#include "target/freeze.h"
#include "target/target_memory.h"
#include "target/thread_state.h"

namespace sluice {

// Throws RESTORE_MISMATCH, naming those that are gone and those that are new.
void require_same_threads(pid_t pid, const std::vector<ThreadState>& wanted,
                          const std::vector<pid_t>& tids);

// All in the tracer task of the freeze. What it is made of must outlive it.
class ThreadRestorer {
 public:
  ThreadRestorer(const TargetMemory& memory, const std::vector<ThreadState>& wanted,
                 Freeze* freeze);

  // Changes nothing. What the kernel keeps of each thread and nobody else can change is as it was.
  // Throws RESTORE_MISMATCH.
  void check();
  // After check, once the memory is that of the image. Throws SYSTEM.
  void restore();

 private:
  struct Rseq {
    uint64_t address = 0;
    // What the kernel notes there of the processor that the thread runs on.
    std::array<uint8_t, 8> processor{};
    std::array<uint8_t, 8> node{};
  };
  void require_same_kernel_state(const ThreadState& then, const ThreadState& now) const;

  const TargetMemory& memory_;
  const std::vector<ThreadState>& wanted_;
  Freeze* freeze_;
  std::map<pid_t, arch::Registers> registers_now_;
  std::map<pid_t, Rseq> rseqs_;
};

}  // namespace sluice
