// Threads and state of a process, as the contract has them in JavaScript.
#pragma once

#include <napi.h>

#include <optional>

#include "session/dump_session.h"

namespace sluice::addon {

Napi::Object thread_to_js(Napi::Env env, const ThreadState& thread);

// null for nullopt.
Napi::Value state_to_js(Napi::Env env, const std::optional<CapturedProcess>& process);

}  // namespace sluice::addon
