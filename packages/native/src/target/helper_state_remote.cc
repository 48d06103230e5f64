#include "target/helper_state_remote.h"

#include <signal.h>

#include <algorithm>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/proc_status.h"

namespace sluice {

using arch::make_call;

namespace {

uint64_t caught_by(pid_t pid) {
  try {
    const auto status = read_status(pid);
    return status ? status->caught : 0;
  } catch (const Error&) {
    return 0;  // then the target seems to have caught more since, and nothing is said
  }
}

}  // namespace

std::optional<std::vector<SignalAction>> signal_actions(Helper* helper) {
  // Its own, but for SIGTRAP, of which only it knows more.
  const uint64_t caught = caught_by(helper->pid()) | uint64_t{1} << (SIGTRAP - 1);
  std::vector<SignalAction> actions;
  for (int signal = 1; signal <= abi::kSignals; ++signal) {
    if ((caught >> (signal - 1) & 1) == 0) {
      continue;
    }
    abi::KernelSigaction action{};
    if (helper->signal_action(signal, &action) != 0) {
      return std::nullopt;
    }
    const bool is_caught = action.handler != reinterpret_cast<uint64_t>(SIG_DFL) &&
                           action.handler != reinterpret_cast<uint64_t>(SIG_IGN);
    if (!is_caught) {
      continue;
    }
    actions.push_back({signal, action.handler, action.flags, action.restorer, action.mask});
  }
  return actions;
}

std::optional<std::vector<SignalAction>> actions_of_caught(
    uint64_t caught, const std::optional<std::vector<SignalAction>>& known) {
  std::vector<SignalAction> actions;
  for (int signal = 1; known && signal <= abi::kSignals; ++signal) {
    if ((caught >> (signal - 1) & 1) == 0) {
      continue;
    }
    const auto found = std::find_if(known->begin(), known->end(), [&](const SignalAction& action) {
      return action.signal == signal;
    });
    if (found == known->end()) {
      return std::nullopt;
    }
    actions.push_back(*found);
  }
  return known ? std::optional(std::move(actions)) : std::nullopt;
}

uint64_t program_break(Helper* helper) {
  const int64_t end = helper->call(make_call(SYS_brk, {0}));
  return end < 0 ? 0 : static_cast<uint64_t>(end);
}

}  // namespace sluice
