// Every step of work on a target, in the order in which they come, by the name that docs/safety.md
// has for it. A test may end the dumper exactly there, to see that the target finds its own way
// back. Costs one relaxed load where no test has set a hook.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace sluice::steps {

enum class Step {
  // Any stop.
  kSignalSeen,  // a thread stands before a signal that it is about to receive
  // A call that is made in a thread of the target.
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
  // A helper.
  kHelperNamed,      // the helper has its name
  kHelperSecured,    // PTRACE_O_EXITKILL is set
  kHelperReady,      // the helper has nothing of the target's any more
  kScratchUnmapped,  // its memory is gone, and it is about to end
  kHelperEnded,      // it is a zombie
  kZombieReaped,     // the target was made to reap it
  // Tracking, while the target runs.
  kUserfaultfdTaken,  // the dumper has it
  kRangeWatched,      // a mapping is registered with it and write-protected
  kBitsReset,         // soft-dirty bits are reset
  kPagesCollected,    // written pages were found and reset
  kPagesPinned,       // pages are in a pipe
  kRangeReleased,     // part of a mapping is no longer registered
  // The freeze.
  kThreadInterrupted,  // one more thread is about to stop
  kFrozen,             // all threads stand still
  kPagesTaken,         // all that must be taken under freeze is
  kHeld,               // and the target is kept there
  kThreadReleased,     // one more thread goes on
  kThawed,             // all of them do
  // A twin.
  kTwinCloned,    // the twin exists, and the helper stands in the call that made it
  kTwinSecured,   // the twin is known to stand still
  kTwinCaptured,  // the twin is about to be ended
  kTwinEnded,     // the twin is a zombie
  // A restore. From the first change of a mapping to the last thread set nothing can be made safe.
  kHandlerSet,      // one more signal is handled as it was then
  kMappingChanged,  // one more call has changed mappings
  kPagesDropped,    // one more mapping has lost the pages that the image has not
  kPagesWritten,    // one more piece of memory is as it was then
  kDescriptorSet,   // one more file stands where it stood
  kThreadSet,       // one more thread has its registers
};

inline constexpr size_t kSteps = static_cast<size_t>(Step::kThreadSet) + 1;

// In the order of the steps.
inline constexpr std::array<std::string_view, kSteps> kNames = {
    "signal-seen",     "stopped",         "frame-written",
    "registers-set",   "signals-blocked", "return-entered",
    "call-entered",    "call-left",       "cloned",
    "mask-returned",   "put-back",        "helper-named",
    "helper-secured",  "helper-ready",    "scratch-unmapped",
    "helper-ended",    "zombie-reaped",   "userfaultfd-taken",
    "range-watched",   "bits-reset",      "pages-collected",
    "pages-pinned",    "range-released",  "thread-interrupted",
    "frozen",          "pages-taken",     "held",
    "thread-released", "thawed",          "twin-cloned",
    "twin-secured",    "twin-captured",   "twin-ended",
    "handler-set",     "mapping-changed", "pages-dropped",
    "pages-written",   "descriptor-set",  "thread-set",
};

inline std::atomic<void (*)(Step)> g_hook{nullptr};

inline void at(Step step) {
  if (void (*hook)(Step) = g_hook.load(std::memory_order_relaxed)) {
    hook(step);
  }
}

// Tests only. Counts the steps from now on, from 0; and when `deadly` has come for the `times`th
// time, this process dies there by SIGKILL: the thread that came to it goes no further.
void watch(std::optional<Step> deadly, uint64_t times);
std::array<uint64_t, kSteps> counts();

std::optional<Step> step_of(std::string_view name);

}  // namespace sluice::steps
