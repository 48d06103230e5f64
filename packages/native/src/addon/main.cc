#include <signal.h>

#include "addon/api.h"

// A file that would grow past its limit (RLIMIT_FSIZE) is an error of the call that writes to it.
// By default there is a signal before that, which ends the process and leaves things behind.
static void survive_file_limits() {
  struct sigaction action{};
  if (sigaction(SIGXFSZ, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) {
    action.sa_handler = SIG_IGN;
    sigaction(SIGXFSZ, &action, nullptr);
  }
}

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  survive_file_limits();
  sluice::addon::add_inspect_api(env, exports);
  sluice::addon::add_session_api(env, exports);
  sluice::addon::add_restore_api(env, exports);
  return exports;
}

NODE_API_MODULE(sluice, initialize)
