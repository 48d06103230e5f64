#include "restore/signal_action_restorer.h"

#include <signal.h>
#include <string.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "kernel/proc_status.h"
#include "kernel/steps.h"

namespace sluice {
namespace {

constexpr uint64_t kMaskBytes = sizeof(abi::KernelSigaction::mask);

// Of a signal that is not caught nothing but that counts.
bool same_action(const abi::KernelSigaction& a, const abi::KernelSigaction& b) {
  const auto by_default = reinterpret_cast<uint64_t>(SIG_DFL);
  const auto ignored = reinterpret_cast<uint64_t>(SIG_IGN);
  return a.handler == b.handler &&
         (a.handler == by_default || a.handler == ignored ||
          (a.flags == b.flags && a.restorer == b.restorer && a.mask == b.mask));
}

arch::Call sigaction_call(int signal, RemotePtr action, RemotePtr old) {
  return arch::make_call(SYS_rt_sigaction,
                         {static_cast<uint64_t>(signal), action.value(), old.value(), kMaskBytes});
}

std::string describe_signal(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return "signal " + std::to_string(signal) + (name ? std::string(" (SIG") + name + ")" : "");
}

}  // namespace

// Of the signals that are caught, then or now, or ignored at one time only.
std::vector<SignalActionRestorer::Action> SignalActionRestorer::all_wanted() const {
  const auto status = read_status(memory_.pid());
  std::vector<Action> actions;
  if (!status || !wanted_.signal_actions) {
    return actions;
  }
  const uint64_t looked_at = status->caught | (status->ignored ^ wanted_.ignored_signals);
  for (int signal = 1; signal <= abi::kSignals; ++signal) {
    Action action{signal, {}, {}};
    const auto caught =
        std::find_if(wanted_.signal_actions->begin(), wanted_.signal_actions->end(),
                     [&](const SignalAction& then) { return then.signal == signal; });
    if (caught != wanted_.signal_actions->end()) {
      action.wanted = {caught->handler, caught->flags, caught->restorer, caught->mask};
    } else if ((wanted_.ignored_signals >> (signal - 1) & 1) != 0) {
      action.wanted.handler = reinterpret_cast<uint64_t>(SIG_IGN);
    }
    if (caught != wanted_.signal_actions->end() || (looked_at >> (signal - 1) & 1) != 0) {
      actions.push_back(action);
    }
  }
  return actions;
}

void SignalActionRestorer::check(const StopThread& stop, Helper* helper) {
  differing_.clear();
  std::vector<Action> actions = all_wanted();
  if (actions.empty()) {
    return;
  }
  std::unique_ptr<RemoteThread> thread;
  try {
    thread = stop();
  } catch (const Error& error) {
    if (!error.is("INJECTION")) {
      throw;
    }
  }
  const auto ask = [&](Action* action) {
    if (!thread) {
      return helper->signal_action(action->signal, &action->found);
    }
    const RemotePtr result = helper->results();
    const int64_t asked = thread->call(sigaction_call(action->signal, RemotePtr(), result));
    const bool told = asked == 0 && memory_.read(result, &action->found, sizeof action->found);
    return told || asked != 0 ? asked : -EFAULT;
  };
  for (Action& action : actions) {
    const int64_t asked = ask(&action);
    if (asked != 0) {
      throw Error("INJECTION", memory_.pid(), "rt_sigaction", static_cast<int>(-asked),
                  "it does not tell how it handles " + describe_signal(action.signal));
    }
  }
  std::erase_if(actions,
                [](const Action& action) { return same_action(action.wanted, action.found); });
  if (!actions.empty() && !thread) {
    throw Error("RESTORE_MISMATCH", memory_.pid(), "", 0,
                describe_signal(actions.front().signal) +
                    " is handled otherwise than it was, and none of its threads can be made to "
                    "change that");
  }
  differing_ = std::move(actions);
}

bool SignalActionRestorer::set(RemoteThread* thread, Helper* helper, int signal,
                               const abi::KernelSigaction& action) {
  const bool done = TargetMemory::write(helper->pid(), helper->results(), &action, sizeof action) &&
                    thread->call(sigaction_call(signal, helper->results(), RemotePtr())) == 0;
  steps::at(steps::Step::kHandlerSet);
  return done;
}

void SignalActionRestorer::restore(const StopThread& stop, Helper* helper) {
  if (differing_.empty()) {
    return;
  }
  const auto thread = stop();
  for (const Action& action : differing_) {
    if (!set(thread.get(), helper, action.signal, action.wanted)) {
      put_back(thread.get(), helper);
      throw Error("SYSTEM", memory_.pid(), "rt_sigaction", 0,
                  "how it handles " + describe_signal(action.signal) + " cannot be set back");
    }
  }
}

void SignalActionRestorer::undo(const StopThread& stop, Helper* helper) {
  if (differing_.empty()) {
    return;
  }
  put_back(stop().get(), helper);
}

void SignalActionRestorer::put_back(RemoteThread* thread, Helper* helper) {
  for (const Action& action : differing_) {
    set(thread, helper, action.signal, action.found);
  }
}

}  // namespace sluice
