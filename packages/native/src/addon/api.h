// The addon's parts, as packages/native/lib/contract.ts describes them.
#pragma once

#include <napi.h>

#include <cstdint>
#include <vector>

#include "kernel/proc_maps.h"

namespace sluice::addon {

void add_inspect_api(Napi::Env env, Napi::Object exports);
void add_session_api(Napi::Env env, Napi::Object exports);
void add_restore_api(Napi::Env env, Napi::Object exports);

Napi::Object mapping_to_js(Napi::Env env, const Mapping& mapping);
Napi::Value checksums_to_js(Napi::Env env, const std::vector<uint32_t>& sums);

}  // namespace sluice::addon
