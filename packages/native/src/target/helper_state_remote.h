// What only a task within the target can be told about it. DANGER: the helper makes the calls.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "target/helper_remote.h"

namespace sluice {

// As sigaction(2) set it.
struct SignalAction {
  int signal = 0;
  uint64_t handler = 0;
  uint64_t flags = 0;
  uint64_t restorer = 0;
  uint64_t mask = 0;  // number n as bit n - 1
};

// Of the signals that the target had handlers for when the helper was cloned, whose copies these
// are. nullopt: it is gone.
std::optional<std::vector<SignalAction>> signal_actions(Helper* helper);

// Of the signals in `caught`; nullopt if one of them got its handler after `known` were read, so
// that others may have changed as well. Pure.
std::optional<std::vector<SignalAction>> actions_of_caught(
    uint64_t caught, const std::optional<std::vector<SignalAction>>& known);

// What brk(2) set; 0 if the helper is gone.
uint64_t program_break(Helper* helper);

}  // namespace sluice
