// Facts about kernel and target, checksums, remains of dumpers that were killed, and the seams for
// tests.
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "addon/api.h"
#include "addon/state_values.h"
#include "addon/values.h"
#include "kernel/crc32c.h"
#include "kernel/memory_users.h"
#include "kernel/probes.h"
#include "kernel/proc_maps.h"
#include "kernel/steps.h"
#include "kernel/syscalls.h"
#include "kernel/target_facts.h"
#include "pipe/shard_file.h"
#include "target/detach_remote.h"

namespace sluice::addon {
namespace {

Napi::Value kernel_facts_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const KernelFacts facts = kernel_facts(info[0].As<Napi::String>().Utf8Value());
    Napi::Object probes = Napi::Object::New(env);
    for_each_probe(facts, [&](const char* name, const Probe& probe) {
      Napi::Object value = Napi::Object::New(env);
      value.Set("ok", probe.ok);
      value.Set("detail", text(env, probe.detail));
      probes.Set(name, value);
    });
    Napi::Object result = Napi::Object::New(env);
    result.Set("release", text(env, facts.release));
    result.Set("machine", text(env, facts.machine));
    result.Set("pageSizeBytes", number(env, facts.page_size_bytes));
    result.Set("probes", probes);
    return result;
  });
}

Napi::Value target_facts_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const TargetFacts facts = target_facts(info[0].As<Napi::Number>().Int32Value());
    Napi::Object result = Napi::Object::New(env);
    result.Set("pid", facts.pid);
    result.Set("name", text(env, facts.name));
    result.Set("startTimeTicks", Napi::BigInt::New(env, facts.start_time_ticks));
    result.Set("state", text(env, facts.state));
    result.Set("threads", number(env, facts.threads));
    result.Set("namespacePid", facts.namespace_pid);
    result.Set("seccompMode", facts.seccomp_mode);
    result.Set("tracerPid", facts.tracer_pid);
    result.Set("refusal", text(env, facts.refusal.empty() ? "" : "ERR_SLUICE_" + facts.refusal));
    result.Set("refusalDetail", text(env, facts.refusal_detail));
    return result;
  });
}

Napi::Value memory_users_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    return list(env, memory_users(info[0].As<Napi::Number>().Int32Value()),
                [env](pid_t pid) { return number(env, pid); });
  });
}

Napi::Value read_maps_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    return list(env, read_maps(info[0].As<Napi::Number>().Int32Value()),
                [env](const Mapping& mapping) { return mapping_to_js(env, mapping); });
  });
}

Napi::Value process_state_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const pid_t pid = info[0].As<Napi::Number>().Int32Value();
    std::optional<CapturedProcess> process;
    if (auto state = read_process_state(pid)) {
      process.emplace().state = std::move(*state);
      process->files = read_process_files(pid, {});
    }
    return state_to_js(env, process);
  });
}

Napi::Value crc32c_js(const Napi::CallbackInfo& info) {
  const auto data = info[0].As<Napi::Uint8Array>();
  const uint32_t seed = info[1].As<Napi::Number>().Uint32Value();
  return Napi::Number::New(info.Env(), crc32c(seed, data.Data(), data.ByteLength()));
}

Napi::Value crc32c_file_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto sums =
        checksum_file(info[0].As<Napi::String>().Utf8Value(),
                      static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value()),
                      static_cast<uint64_t>(info[2].As<Napi::Number>().Int64Value()), false);
    return checksums_to_js(env, sums);
  });
}

Napi::Value set_faults_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto given = info[0].As<Napi::Array>();
    std::vector<sys::Fault> faults;
    for (uint32_t i = 0; i < given.Length(); ++i) {
      const auto item = given.Get(i).As<Napi::Object>();
      std::string call = text_of(item, "call");
      const std::string prefix = "remote:";
      sys::Fault fault;
      fault.remote = call.rfind(prefix, 0) == 0;
      fault.number = sys::number_of(fault.remote ? call.substr(prefix.size()) : call);
      if (call == "ioctl:UFFDIO_REGISTER") {
        fault.number = SYS_ioctl;
        fault.request = static_cast<long>(UFFDIO_REGISTER);
      }
      if (fault.number < 0) {
        throw Error("OPTION", 0, "", 0, "the seam does not know the call " + call);
      }
      fault.skip = integer_of(item, "skip");
      fault.times = integer_of(item, "times");
      fault.errnum = static_cast<int>(integer_of(item, "errno"));
      fault.cap_bytes = static_cast<uint64_t>(integer_of(item, "capBytes"));
      fault.copy = text_of(item, "mode") == "copy";
      fault.hang = text_of(item, "mode") == "hang";
      faults.push_back(fault);
    }
    sys::set_faults(std::move(faults));
    return env.Undefined();
  });
}

Napi::Value clean_target_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Cleaned cleaned = clean_target(info[0].As<Napi::Number>().Int32Value());
    Napi::Object result = Napi::Object::New(env);
    result.Set("mappings", number(env, cleaned.mappings));
    result.Set("zombies", number(env, cleaned.zombies));
    result.Set("left", texts(env, cleaned.left));
    return result;
  });
}

Napi::Value watch_steps_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const std::string name = info[0].As<Napi::String>().Utf8Value();
    const auto deadly = steps::step_of(name);
    if (!deadly && !name.empty()) {
      throw Error("OPTION", 0, "", 0, "there is no step " + name);
    }
    steps::watch(deadly, static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value()));
    return env.Undefined();
  });
}

Napi::Value step_counts_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object result = Napi::Object::New(env);
  const auto counts = steps::counts();
  for (size_t i = 0; i < counts.size(); ++i) {
    result.Set(std::string(steps::kNames[i]), number(env, counts[i]));
  }
  return result;
}

Napi::Value faults_hit_js(const Napi::CallbackInfo& info) {
  return number(info.Env(), sys::faults_hit());
}

Napi::Value end_process_js(const Napi::CallbackInfo& info) {
  ::_exit(info[0].As<Napi::Number>().Int32Value());
}

}  // namespace

Napi::Object mapping_to_js(Napi::Env env, const Mapping& mapping) {
  Napi::Object vma = Napi::Object::New(env);
  vma.Set("start", big(env, mapping.start));
  vma.Set("end", big(env, mapping.end));
  vma.Set("protection", text(env, protection_text(mapping)));
  vma.Set("shared", mapping.shared);
  vma.Set("offset", big(env, mapping.offset));
  vma.Set("device", text(env, device_text(mapping)));
  vma.Set("inode", big(env, mapping.inode));
  vma.Set("path", text(env, mapping.path));
  return vma;
}

Napi::Value checksums_to_js(Napi::Env env, const std::vector<uint32_t>& sums) {
  Napi::Uint32Array array = Napi::Uint32Array::New(env, sums.size());
  std::copy(sums.begin(), sums.end(), array.Data());
  return array;
}

void add_inspect_api(Napi::Env env, Napi::Object exports) {
  add_function(env, exports, "kernelFacts", kernel_facts_js);
  add_function(env, exports, "targetFacts", target_facts_js);
  add_function(env, exports, "memoryUsers", memory_users_js);
  add_function(env, exports, "readMaps", read_maps_js);
  add_function(env, exports, "processState", process_state_js);
  add_function(env, exports, "crc32c", crc32c_js);
  add_function(env, exports, "crc32cFile", crc32c_file_js);
  add_function(env, exports, "cleanTarget", clean_target_js);
  add_function(env, exports, "setFaults", set_faults_js);
  add_function(env, exports, "watchSteps", watch_steps_js);
  add_function(env, exports, "stepCounts", step_counts_js);
  add_function(env, exports, "faultsHit", faults_hit_js);
  add_function(env, exports, "endProcess", end_process_js);
}

}  // namespace sluice::addon
