// Restores by number, as handles.h has it.
#include <cstring>
#include <memory>

#include "addon/api.h"
#include "addon/handles.h"
#include "addon/values.h"
#include "restore/restore_session.h"

namespace sluice::addon {
namespace {

Handles<RestoreSession> g_restores("restore");

VmaKind kind_of(const std::string& name) {
  for (const VmaKind kind : {VmaKind::kAnonymous, VmaKind::kPrivateFile, VmaKind::kSharedFile,
                             VmaKind::kSharedMemory, VmaKind::kDeletedFile, VmaKind::kVdso}) {
    if (name == vma_kind_name(kind)) {
      return kind;
    }
  }
  return VmaKind::kExcluded;
}

WantedVma vma_of(const Napi::Object& given) {
  WantedVma vma;
  Mapping& mapping = vma.mapping;
  mapping.start = big_of(given, "start");
  mapping.end = big_of(given, "end");
  mapping.offset = big_of(given, "offset");
  mapping.inode = big_of(given, "inode");
  mapping.shared = given.Get("shared").ToBoolean();
  mapping.path = text_of(given, "path");
  const std::string protection = text_of(given, "protection");
  mapping.readable = protection.find('r') != std::string::npos;
  mapping.writable = protection.find('w') != std::string::npos;
  mapping.executable = protection.find('x') != std::string::npos;
  sscanf(text_of(given, "device").c_str(), "%x:%x", &mapping.dev_major, &mapping.dev_minor);
  vma.kind = kind_of(text_of(given, "kind"));
  vma.flags = text_of(given, "vmFlags");
  const Napi::Value file = given.Get("file");
  if (file.IsObject()) {
    const auto noted = file.As<Napi::Object>();
    MappedFile behind;
    behind.path = text_of(noted, "path");
    behind.device = big_of(noted, "device");
    behind.inode = big_of(noted, "inode");
    behind.bytes = big_of(noted, "bytes");
    behind.modified_ns = big_signed_of(noted, "modifiedNs");
    behind.changed_ns = big_signed_of(noted, "changedNs");
    vma.file = behind;
  }
  return vma;
}

template <typename Item, typename Convert>
std::vector<Item> items_of(const Napi::Object& object, const char* name, Convert convert) {
  const auto array = object.Get(name).As<Napi::Array>();
  std::vector<Item> items;
  items.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) {
    items.push_back(convert(array.Get(i).As<Napi::Object>()));
  }
  return items;
}

ThreadState thread_of(const Napi::Object& given) {
  ThreadState thread;
  thread.tid = static_cast<pid_t>(integer_of(given, "tid"));
  thread.name = text_of(given, "name");
  const auto registers = given.Get("registers").As<Napi::Uint8Array>();
  if (registers.ByteLength() != sizeof thread.registers) {
    throw Error("RESTORE_MISMATCH", 0, "", 0, "the image is of another architecture");
  }
  std::memcpy(&thread.registers, registers.Data(), sizeof thread.registers);
  const auto extended = given.Get("extendedRegisters").As<Napi::Uint8Array>();
  thread.extended_registers.assign(extended.Data(), extended.Data() + extended.ByteLength());
  thread.signal_mask = big_of(given, "signalMask");
  thread.robust_list = big_of(given, "robustList");
  if (given.Get("rseq").IsObject()) {
    const auto rseq = given.Get("rseq").As<Napi::Object>();
    thread.rseq = {big_of(rseq, "address"), static_cast<uint32_t>(integer_of(rseq, "bytes")),
                   static_cast<uint32_t>(integer_of(rseq, "signature"))};
  }
  return thread;
}

SignalAction signal_action_of(const Napi::Object& given) {
  return {static_cast<int>(integer_of(given, "signal")), big_of(given, "handler"),
          big_of(given, "flags"), big_of(given, "restorer"), big_of(given, "mask")};
}

OpenDescriptor descriptor_of(const Napi::Object& given) {
  return {static_cast<uint32_t>(integer_of(given, "descriptor")), text_of(given, "path"),
          big_of(given, "position"), static_cast<uint32_t>(integer_of(given, "flags"))};
}

WantedState state_of(const Napi::Object& given) {
  WantedState state;
  state.threads = items_of<ThreadState>(given, "threads", thread_of);
  if (given.Get("signalActions").IsArray()) {
    state.signal_actions = items_of<SignalAction>(given, "signalActions", signal_action_of);
  }
  state.ignored_signals = big_of(given, "ignoredSignals");
  state.descriptors = items_of<OpenDescriptor>(given, "descriptors", descriptor_of);
  return state;
}

Napi::Value restore_open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto given = info[0].As<Napi::Object>();
    RestoreOptions options;
    options.pid = static_cast<pid_t>(integer_of(given, "pid"));
    options.start_time_ticks = big_of(given, "startTimeTicks");
    options.vmas = items_of<WantedVma>(given, "vmas", vma_of);
    options.state = state_of(given);
    options.stored = ranges_of(given.Get("stored"));
    options.left_out = ranges_of(given.Get("leftOut"));
    options.shared = given.Get("shared").ToBoolean();
    options.freeze_limit_ms = static_cast<uint64_t>(integer_of(given, "freezeLimitMs"));
    options.freeze_timeout_ms = static_cast<uint64_t>(integer_of(given, "freezeTimeoutMs"));
    return number(env, g_restores.add(std::make_shared<RestoreSession>(std::move(options))));
  });
}

Napi::Value restore_result(const Napi::CallbackInfo& info, RestoreSession* restore) {
  const Napi::Env env = info.Env();
  const RestoreResult& result = restore->result();
  Napi::Object object = Napi::Object::New(env);
  const auto set = [&](const char* name, auto value) { object.Set(name, number(env, value)); };
  set("pagesWritten", result.pages_written);
  set("pagesDropped", result.pages_dropped);
  set("mappingsMapped", result.mappings.mapped);
  set("mappingsUnmapped", result.mappings.unmapped);
  set("mappingsProtected", result.mappings.protection_changed);
  set("freezingUs", result.freezing_us);
  set("frozenUs", result.frozen_us);
  object.Set("warnings", texts(env, result.warnings));
  return object;
}

Napi::Value restore_limit_passed(const Napi::CallbackInfo& info, RestoreSession* restore) {
  return Napi::Boolean::New(info.Env(), restore->limit_passed());
}

Napi::Value restore_freeze(const Napi::CallbackInfo& info, RestoreSession* restore) {
  return ranges_to_js(info.Env(), restore->freeze());
}

Napi::Value restore_holds(const Napi::CallbackInfo& info, RestoreSession* restore) {
  bool lossless = false;
  const uint64_t address = info[1].As<Napi::BigInt>().Uint64Value(&lossless);
  const auto given = info[2].As<Napi::Uint8Array>();
  const bool same = restore->holds(RemotePtr(address), {given.Data(), given.ByteLength()});
  return Napi::Boolean::New(info.Env(), same);
}

void restore_write(const Napi::CallbackInfo& info, RestoreSession* restore) {
  const auto given = info[2].As<Napi::Uint8Array>();
  restore->write(ranges_of(info[1]), {given.Data(), given.ByteLength()});
}

Napi::Value restore_detach(const Napi::CallbackInfo& info, RestoreSession* restore) {
  return texts(info.Env(), restore->detach());
}

}  // namespace

void add_restore_api(Napi::Env env, Napi::Object exports) {
  add_function(env, exports, "restoreOpen", restore_open);
  add_function(env, exports, "restoreClose", close_handle<g_restores>);
  add_function(env, exports, "restoreCancel", on<g_restores, &RestoreSession::cancel>);
  add_function(env, exports, "restoreLimitPassed", on<g_restores, restore_limit_passed>);
  add_function(env, exports, "restoreResult", on<g_restores, restore_result>);
  add_function(env, exports, "restoreAttach", on<g_restores, &RestoreSession::attach>);
  add_function(env, exports, "restoreCheck", on<g_restores, &RestoreSession::check>);
  add_function(env, exports, "restoreFreeze", on<g_restores, restore_freeze>);
  add_function(env, exports, "restoreHolds", on<g_restores, restore_holds>);
  add_function(env, exports, "restoreApply", on<g_restores, &RestoreSession::apply>);
  add_function(env, exports, "restoreWrite", on<g_restores, restore_write>);
  add_function(env, exports, "restoreFinish", on<g_restores, &RestoreSession::finish>);
  add_function(env, exports, "restoreThaw", on<g_restores, &RestoreSession::thaw>);
  add_function(env, exports, "restoreDetach", on<g_restores, restore_detach>);
}

}  // namespace sluice::addon
