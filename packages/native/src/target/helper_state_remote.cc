#include "target/helper_state_remote.h"

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

std::optional<std::vector<SignalAction>> signal_actions(Helper* helper,
                                                        const TargetMemory& memory) {
  const uint64_t caught = caught_by(helper->pid());
  std::vector<SignalAction> actions;
  for (int signal = 1; signal <= abi::kSignals; ++signal) {
    if ((caught >> (signal - 1) & 1) == 0) {
      continue;
    }
    abi::KernelSigaction action{};
    const RemotePtr result = helper->results();
    const auto call = make_call(
        SYS_rt_sigaction, {static_cast<uint64_t>(signal), 0, result.value(), sizeof action.mask});
    if (helper->call(call) != 0 || !memory.read(result, &action, sizeof action)) {
      return std::nullopt;
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
