// The helper: a task that shares the target's address space (CLONE_VM), but is a process of its own
// with its own file table, and runs only the system calls it is made to run. DANGER: what it maps
// or changes in the address space, it changes in the target.
//
// It has one mapping of its own there, the scratch: its stack, and room for arguments.
//
//   0      magic and a return frame that leads to exit_group: where the helper goes if the dumper
//          dies before PTRACE_O_EXITKILL is set
//   4096   arguments: iovecs
//   end-4096 results
//
// The scratch is write-only, which no allocator asks for, and stands alone in the middle of the
// largest gap at an address with a certain pattern. So it merges with no neighbour, is in nobody's
// way, and can be told from everything else when a dead dumper left it, even if the dumper died
// between mapping it and writing to it. It is not inherited by fork.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/remote_ptr.h"
#include "base/scoped_fd.h"
#include "kernel/proc_maps.h"
#include "target/arch.h"
#include "target/target_memory.h"
#include "target/tracee.h"

namespace sluice {

namespace abi {
struct KernelSigaction;
}

class RemoteThread;

inline constexpr uint64_t kScratchBytes = 32768;
// What a helper is called in lists of processes.
inline constexpr char kHelperName[] = "sluice-helper";
// As many iovecs as one call takes (UIO_MAXIOV).
inline constexpr size_t kMostIovecs = 1024;

struct HelperPipe {
  ScopedFd read_end;
  ScopedFd write_end;
  int helper_fd = -1;  // the write end in the helper
};

// What is left in the target of helpers that are gone.
struct HelperRemains {
  pid_t zombie = 0;     // to be reaped by the target
  RemotePtr scratch{};  // to be unmapped, 0 if it was
};

// Throws INJECTION when what a helper and `more` bytes need of memory could bring the target to a
// limit of its control group. To be called before a thread of it is stopped for a helper.
void require_memory_for_helper(pid_t pid, uint64_t more = 0);

class Helper {
 public:
  // Makes one through `thread`, and puts back and releases the thread as soon as that is possible.
  // What is left of one that failed is added to `remains`. Throws INJECTION (a limit of the target
  // forbids it), TARGET_EXITED, FREEZE_TIMEOUT.
  static std::unique_ptr<Helper> start(std::unique_ptr<RemoteThread> thread,
                                       const TargetMemory& memory, const arch::Gadgets& gadgets,
                                       const std::vector<Mapping>& maps, double* stopped_us,
                                       std::vector<HelperRemains>* remains = nullptr);
  ~Helper();
  Helper(const Helper&) = delete;
  Helper& operator=(const Helper&) = delete;

  pid_t pid() const { return pid_; }
  // Result in the kernel's style; -ESRCH when the helper is gone.
  int64_t call(const arch::Call& call);
  RemotePtr scratch() const { return scratch_; }
  // The page of its scratch that calls may write what they return to.
  RemotePtr results() const;
  // How the target handled a signal when the helper was made. Result as of call().
  int64_t signal_action(int signal, abi::KernelSigaction* action);
  // vmsplice of target memory into a pipe of make_pipe; at most kMostIovecs.
  int64_t vmsplice(int helper_fd, std::span<const iovec> pages);
  // Throws INJECTION when it has no descriptors left or the kernel does not hand them over.
  HelperPipe make_pipe();
  // A userfaultfd(2) of the target's address space, which the helper does not keep. It serves page
  // faults of user mode only, which everybody may have. Throws INJECTION.
  ScopedFd make_userfaultfd();
  // Makes a process with a copy-on-write copy of the target's memory (the twin): stopped before its
  // first instruction, attached to this tracer, and killed with it. It is a child of the target as
  // the helper is, and as little heard of. Returns its pid, or the negative errno.
  int64_t clone_twin();
  // With these a task whose registers those of the helper are ends.
  arch::Registers exit_registers() const;
  // Unmaps its scratch and ends it. What then remains is a zombie child of the target.
  HelperRemains end();

 private:
  Helper(pid_t pid, const TargetMemory& memory, const arch::Gadgets& gadgets, RemotePtr scratch,
         const arch::Registers& registers);
  // -ETIMEDOUT if it has not returned by then, after which the helper can only be given up.
  int64_t call_until(const arch::Call& call, Deadline deadline);
  int64_t make(const arch::Call& call, pid_t* cloned = nullptr,
               std::optional<Deadline> deadline = std::nullopt);
  void secure(bool filtered);
  void note_trap_action();
  int64_t ask_signal_action(int signal, abi::KernelSigaction* action);
  void wait_for(Stop wanted, Deadline deadline);
  void set_up();
  void leave();

  pid_t pid_;
  const TargetMemory& memory_;
  arch::Gadgets gadgets_;
  RemotePtr scratch_;
  arch::Registers registers_;
  Tracee tracee_;
  ScopedFd pidfd_;
  std::unique_ptr<abi::KernelSigaction> trap_action_;  // of SIGTRAP
  bool stuck_ = false;                                 // in a call that does not return
};

// Scratch mappings and zombies of dumpers that died.
std::vector<HelperRemains> find_remains(const TargetMemory& memory,
                                        const std::vector<Mapping>& maps);

// Where a scratch may be mapped, best first; none if the address space is full. Pure.
std::vector<RemotePtr> scratch_places(const std::vector<Mapping>& maps);

// Makes the target reap and unmap. Returns what could not be removed.
std::vector<HelperRemains> remove_remains(RemoteThread* thread, std::vector<HelperRemains> remains);

}  // namespace sluice
