#include "addon/state_values.h"

#include <array>

#include "addon/values.h"

namespace sluice::addon {
namespace {

Napi::Array ids_to_js(Napi::Env env, const ProcIds& ids) {
  return list(env, std::array{ids.real, ids.effective, ids.saved, ids.filesystem},
              [env](uint32_t id) { return number(env, id); });
}

Napi::Object capabilities_to_js(Napi::Env env, const ProcStatus& status) {
  Napi::Object sets = Napi::Object::New(env);
  sets.Set("inheritable", big(env, status.cap_inh));
  sets.Set("permitted", big(env, status.cap_prm));
  sets.Set("effective", big(env, status.cap_eff));
  sets.Set("bounding", big(env, status.cap_bnd));
  sets.Set("ambient", big(env, status.cap_amb));
  return sets;
}

Napi::Object addresses_to_js(Napi::Env env, const ProcAddresses& of) {
  Napi::Object addresses = Napi::Object::New(env);
  addresses.Set("startCode", big(env, of.start_code));
  addresses.Set("endCode", big(env, of.end_code));
  addresses.Set("startStack", big(env, of.start_stack));
  addresses.Set("startData", big(env, of.start_data));
  addresses.Set("endData", big(env, of.end_data));
  addresses.Set("startBreak", big(env, of.start_break));
  addresses.Set("argumentsStart", big(env, of.arguments_start));
  addresses.Set("argumentsEnd", big(env, of.arguments_end));
  addresses.Set("environmentStart", big(env, of.environment_start));
  addresses.Set("environmentEnd", big(env, of.environment_end));
  return addresses;
}

Napi::Object limit_to_js(Napi::Env env, const ResourceLimit& of) {
  Napi::Object limit = Napi::Object::New(env);
  limit.Set("name", of.name);
  limit.Set("soft", big(env, of.soft));
  limit.Set("hard", big(env, of.hard));
  return limit;
}

Napi::Object action_to_js(Napi::Env env, const SignalAction& of) {
  Napi::Object action = Napi::Object::New(env);
  action.Set("signal", of.signal);
  action.Set("handler", big(env, of.handler));
  action.Set("flags", big(env, of.flags));
  action.Set("restorer", big(env, of.restorer));
  action.Set("mask", big(env, of.mask));
  return action;
}

Napi::Object descriptor_to_js(Napi::Env env, const OpenDescriptor& of) {
  Napi::Object open = Napi::Object::New(env);
  open.Set("descriptor", number(env, of.descriptor));
  open.Set("path", text(env, of.path));
  open.Set("position", big(env, of.position));
  open.Set("flags", number(env, of.flags));
  return open;
}

Napi::Object feature_to_js(Napi::Env env, const arch::ExtendedFeature& of) {
  Napi::Object feature = Napi::Object::New(env);
  feature.Set("number", number(env, of.number));
  feature.Set("bytes", number(env, of.bytes));
  feature.Set("offset", number(env, of.offset));
  return feature;
}

void add_status(Napi::Env env, const ProcStatus& status, Napi::Object* state) {
  state->Set("userIds", ids_to_js(env, status.uids));
  state->Set("groupIds", ids_to_js(env, status.gids));
  state->Set("supplementaryGroups",
             list(env, status.groups, [env](gid_t id) { return number(env, id); }));
  state->Set("capabilities", capabilities_to_js(env, status));
  state->Set("noNewPrivileges", status.no_new_privs);
  state->Set("seccompMode", status.seccomp_mode);
  state->Set("pendingSignals", big(env, status.process_pending));
  state->Set("ignoredSignals", big(env, status.ignored));
  state->Set("caughtSignals", big(env, status.caught));
  state->Set("umask", number(env, status.umask));
}

}  // namespace

Napi::Object thread_to_js(Napi::Env env, const ThreadState& of) {
  Napi::Object thread = Napi::Object::New(env);
  thread.Set("tid", of.tid);
  thread.Set("namespaceTid", of.namespace_tid);
  thread.Set("name", text(env, of.name));
  thread.Set("registers", bytes(env, &of.registers, sizeof of.registers));
  thread.Set("extendedRegisters",
             bytes(env, of.extended_registers.data(), of.extended_registers.size()));
  thread.Set("signalMask", big(env, of.signal_mask));
  thread.Set("pendingSignals", big(env, of.pending_signals));
  thread.Set("robustList", big(env, of.robust_list));
  thread.Set("rseq", env.Null());
  if (of.rseq) {
    Napi::Object rseq = Napi::Object::New(env);
    rseq.Set("address", big(env, of.rseq->address));
    rseq.Set("bytes", number(env, of.rseq->bytes));
    rseq.Set("signature", number(env, of.rseq->signature));
    thread.Set("rseq", rseq);
  }
  return thread;
}

Napi::Value state_to_js(Napi::Env env, const std::optional<CapturedProcess>& process) {
  if (!process) {
    return env.Null();
  }
  const ProcStat& stat = process->state.stat;
  const ProcessFiles& files = process->files;
  Napi::Object state = Napi::Object::New(env);
  state.Set("parentPid", stat.ppid);
  state.Set("processGroup", stat.process_group);
  state.Set("sessionLeader", stat.session_leader);
  state.Set("nice", stat.nice);
  state.Set("flags", big(env, stat.flags));
  add_status(env, process->state.status, &state);
  state.Set("limits", list(env, process->state.limits,
                           [env](const ResourceLimit& limit) { return limit_to_js(env, limit); }));
  const auto& vector = process->auxiliary_vector;
  state.Set("auxiliaryVector", bytes(env, vector.data(), vector.size()));
  state.Set("addresses", addresses_to_js(env, stat.addresses));
  state.Set("programBreak", big(env, process->program_break));
  state.Set("signalActions", env.Null());
  if (process->signal_actions) {
    state.Set("signalActions",
              list(env, *process->signal_actions,
                   [env](const SignalAction& action) { return action_to_js(env, action); }));
  }
  state.Set("extendedLayout",
            list(env, process->extended_layout, [env](const arch::ExtendedFeature& feature) {
              return feature_to_js(env, feature);
            }));
  state.Set("workingDirectory", text(env, files.working_directory));
  state.Set("root", text(env, files.root));
  state.Set("descriptors", list(env, files.descriptors, [env](const OpenDescriptor& open) {
              return descriptor_to_js(env, open);
            }));
  return state;
}

}  // namespace sluice::addon
