// The steps of work in a thread of the target at which a test may end the dumper, to see that the
// target finds its own way back from each. Costs one relaxed load where no test has set a hook.
#pragma once

#include <atomic>

namespace sluice::steps {

enum class Step {
  kStopped,         // nothing is changed yet
  kFrameWritten,    // the return frame is below the red zone
  kRegistersSet,    // the thread would go back with its frame
  kSignalsBlocked,  // its signal mask is full
  kReturnEntered,   // it stands at the entry of rt_sigreturn
  kCallEntered,     // which has become the entry of the call
  kCallLeft,        // it stands at the exit of the call
  kCloned,          // the helper exists, and is not yet secured
  kMaskReturned,    // its own signal mask is back
  kPutBack,         // and its registers
  kHelperNamed,     // the helper has its name
  kHelperSecured,   // PTRACE_O_EXITKILL is set
  kHelperReady,     // the helper has nothing of the target's any more
  kTwinCloned,      // the twin exists, and the helper stands in the call that made it
  kTwinSecured,     // the twin is known to stand still
  kTwinCaptured,    // the twin is about to be ended
  kTwinEnded,       // the twin is a zombie
};

inline std::atomic<void (*)(Step)> g_hook{nullptr};

inline void at(Step step) {
  if (void (*hook)(Step) = g_hook.load(std::memory_order_relaxed)) {
    hook(step);
  }
}

}  // namespace sluice::steps
