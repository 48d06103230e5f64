#include "addon/api.h"

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  sluice::addon::add_inspect_api(env, exports);
  sluice::addon::add_session_api(env, exports);
  sluice::addon::add_restore_api(env, exports);
  return exports;
}

NODE_API_MODULE(sluice, initialize)
