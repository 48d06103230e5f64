// What an image says of a process beside its memory, as far as a restore brings it back.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernel/proc_descriptors.h"
#include "target/helper_state_remote.h"
#include "target/thread_state.h"

namespace sluice {

struct WantedState {
  std::vector<ThreadState> threads;
  // Of the signals that it caught; nullopt if they are not known.
  std::optional<std::vector<SignalAction>> signal_actions;
  uint64_t ignored_signals = 0;  // number n as bit n - 1
  // Ascending.
  std::vector<OpenDescriptor> descriptors;
};

}  // namespace sluice
