// What sigaction(2) set in a process, compared with what an image has, and set back. Only a thread
// of the process itself can do so. DANGER: the calls are made in one of them.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "kernel/abi.h"
#include "restore/wanted_state.h"
#include "target/helper_remote.h"
#include "target/target_memory.h"
#include "target/thread_remote.h"

namespace sluice {

class SignalActionRestorer {
 public:
  SignalActionRestorer(const TargetMemory& memory, const WantedState& wanted)
      : memory_(memory), wanted_(wanted) {}

  // Under freeze. Looks which differ, in a thread that `stop` gives; where none will do, in the
  // copy that `helper` was made with. Throws RESTORE_MISMATCH if some differ and no thread will do.
  using StopThread = std::function<std::unique_ptr<RemoteThread>()>;
  void check(const StopThread& stop, Helper* helper);
  // After check, with the memory still as it was. Throws SYSTEM and INJECTION, with all as it was.
  void restore(const StopThread& stop, Helper* helper);
  // After restore: puts them back to what they were.
  void undo(const StopThread& stop, Helper* helper);

 private:
  struct Action {
    int signal = 0;
    abi::KernelSigaction wanted{};
    abi::KernelSigaction found{};
  };
  std::vector<Action> all_wanted() const;
  static bool set(RemoteThread* thread, Helper* helper, int signal,
                  const abi::KernelSigaction& action);
  void put_back(RemoteThread* thread, Helper* helper);

  const TargetMemory& memory_;
  const WantedState& wanted_;
  std::vector<Action> differing_;
};

}  // namespace sluice
