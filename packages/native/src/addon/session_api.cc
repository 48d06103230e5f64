// Sessions by number. Each worker thread loads the addon anew, but they share this code's memory,
// so a number from the main thread means the same session everywhere.
#include <map>
#include <memory>
#include <mutex>

#include "addon/api.h"
#include "addon/values.h"
#include "session/dump_session.h"

namespace sluice::addon {
namespace {

std::mutex g_mutex;
std::map<uint32_t, std::shared_ptr<DumpSession>> g_sessions;
uint32_t g_next = 1;

// Keeps the session alive for the length of the call, even if it is closed meanwhile.
std::shared_ptr<DumpSession> session_of(const Napi::CallbackInfo& info) {
  const std::lock_guard<std::mutex> lock(g_mutex);
  const auto found = g_sessions.find(info[0].As<Napi::Number>().Uint32Value());
  if (found == g_sessions.end()) {
    throw Error("CANCELLED", 0, "", 0, "the session is closed");
  }
  return found->second;
}

size_t index_of(const Napi::CallbackInfo& info) { return info[1].As<Napi::Number>().Uint32Value(); }

// A function of the addon that works on the session its first argument names.
using Body = Napi::Value (*)(const Napi::CallbackInfo& info, DumpSession* session);
template <Body body>
Napi::Value on_session(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto session = session_of(info);
    try {
      return body(info, session.get());
    } catch (const Error& error) {
      throw session->explain(error);
    }
  });
}

CaptureMode capture_mode(const std::string& name) {
  return name == "vmsplice" ? CaptureMode::kVmsplice
         : name == "read"   ? CaptureMode::kRead
                            : CaptureMode::kAuto;
}

TrackerMode tracker_mode(const std::string& name) {
  return name == "uffd-wp"      ? TrackerMode::kUffdWp
         : name == "soft-dirty" ? TrackerMode::kSoftDirty
         : name == "none"       ? TrackerMode::kNone
                                : TrackerMode::kAuto;
}

const char* tracker_name(TrackerMode mode) {
  return mode == TrackerMode::kUffdWp      ? "uffd-wp"
         : mode == TrackerMode::kSoftDirty ? "soft-dirty"
                                           : "none";
}

RoundKind round_kind(const std::string& name) {
  return name == "live"    ? RoundKind::kLive
         : name == "final" ? RoundKind::kFinal
                           : RoundKind::kWhole;
}

DumpSession::Release release_of(const std::string& name) {
  return name == "stopped" ? DumpSession::Release::kStopped
         : name == "kill"  ? DumpSession::Release::kKill
                           : DumpSession::Release::kResume;
}

std::string text_at(const Napi::CallbackInfo& info, size_t index) {
  return info[index].As<Napi::String>().Utf8Value();
}

uint64_t whole_at(const Napi::CallbackInfo& info, size_t index) {
  return static_cast<uint64_t>(info[index].As<Napi::Number>().Int64Value());
}

IoMode io_mode(const std::string& name) {
  return name == "direct"     ? IoMode::kDirect
         : name == "buffered" ? IoMode::kBuffered
                              : IoMode::kAuto;
}

Napi::Value session_open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto given = info[0].As<Napi::Object>();
    SessionOptions options;
    options.pid = static_cast<pid_t>(integer_of(given, "pid"));
    options.lanes = static_cast<size_t>(integer_of(given, "lanes"));
    options.drains = static_cast<size_t>(integer_of(given, "drains"));
    options.budget_bytes = static_cast<uint64_t>(integer_of(given, "budgetBytes"));
    options.capture = capture_mode(text_of(given, "capture"));
    options.io = io_mode(text_of(given, "io"));
    options.dir = text_of(given, "dir");
    options.tracker = tracker_mode(text_of(given, "tracker"));
    options.freeze_timeout_ms = static_cast<uint64_t>(integer_of(given, "freezeTimeoutMs"));
    options.hand_over = given.Get("handOver").ToBoolean();
    options.known = normalised(ranges_of(given.Get("known")));
    const auto session = std::make_shared<DumpSession>(options);

    uint32_t number_given = 0;
    {
      const std::lock_guard<std::mutex> lock(g_mutex);
      number_given = g_next++;
      g_sessions.emplace(number_given, session);
    }
    const TargetIdentity& identity = session->identity();
    Napi::Object result = Napi::Object::New(env);
    result.Set("session", number(env, number_given));
    result.Set("name", text(env, identity.name));
    result.Set("commandLine", texts(env, identity.command_line));
    result.Set("executable", text(env, identity.executable));
    result.Set("startTimeTicks", big(env, identity.start_time_ticks));
    result.Set("namespacePid", identity.namespace_pid);
    return result;
  });
}

Napi::Value session_close(const Napi::CallbackInfo& info) {
  std::shared_ptr<DumpSession> closing;
  const std::lock_guard<std::mutex> lock(g_mutex);
  const auto found = g_sessions.find(info[0].As<Napi::Number>().Uint32Value());
  if (found != g_sessions.end()) {
    closing = std::move(found->second);
    g_sessions.erase(found);
  }
  return info.Env().Undefined();
}

Napi::Value session_cancel(const Napi::CallbackInfo& info, DumpSession* session) {
  session->cancel();
  return info.Env().Undefined();
}

Napi::Value session_progress(const Napi::CallbackInfo& info, DumpSession* session) {
  const Napi::Env env = info.Env();
  Napi::Object result = Napi::Object::New(env);
  result.Set("pagesCaptured", number(env, static_cast<double>(session->pages_captured())));
  result.Set("bytesDrained", number(env, static_cast<double>(session->bytes_drained())));
  result.Set("frozen", session->frozen());
  return result;
}

Napi::Value session_set_cuts(const Napi::CallbackInfo& info, DumpSession* session) {
  const auto cuts = info[2].As<Napi::BigUint64Array>();
  session->set_cuts(whole_at(info, 1),
                    std::vector<uint64_t>(cuts.Data(), cuts.Data() + cuts.ElementLength()));
  return info.Env().Undefined();
}

Napi::Object vma_to_js(Napi::Env env, const PlannedVma& planned, const std::string& flags) {
  Napi::Object vma = mapping_to_js(env, planned.mapping);
  vma.Set("kind", vma_kind_name(planned.kind));
  vma.Set("leftOut", text(env, planned.left_out));
  vma.Set("vmFlags", text(env, flags));
  if (planned.file) {
    const MappedFile& behind = *planned.file;
    Napi::Object file = Napi::Object::New(env);
    file.Set("path", text(env, behind.path));
    file.Set("device", big(env, behind.device));
    file.Set("inode", big(env, behind.inode));
    file.Set("bytes", big(env, behind.bytes));
    file.Set("modifiedNs", big_signed(env, behind.modified_ns));
    file.Set("changedNs", big_signed(env, behind.changed_ns));
    vma.Set("file", file);
  }
  return vma;
}

Napi::Value session_finish_round(const Napi::CallbackInfo& info, DumpSession* session) {
  const Napi::Env env = info.Env();
  const RoundResult captured = session->finish_round(whole_at(info, 1));
  Napi::Object result = Napi::Object::New(env);
  Napi::Array vmas = Napi::Array::New(env, captured.plan.vmas.size());
  for (uint32_t i = 0; i < vmas.Length(); ++i) {
    vmas.Set(i, vma_to_js(env, captured.plan.vmas[i], captured.vm_flags[i]));
  }
  result.Set("vmas", vmas);
  result.Set("threads", list(env, captured.threads, [env](const FrozenThread& frozen) {
               Napi::Object thread = Napi::Object::New(env);
               thread.Set("tid", frozen.tid);
               thread.Set("name", text(env, frozen.name));
               thread.Set("registers", bytes(env, &frozen.registers, sizeof frozen.registers));
               return thread;
             }));
  result.Set("leftOut", list(env, captured.left_out, [env](const LeftOut& item) {
               Napi::Object range = Napi::Object::New(env);
               range.Set("start", big(env, item.range.start));
               range.Set("end", big(env, item.range.end));
               range.Set("reason", text(env, item.reason));
               return range;
             }));
  const auto table = encode_page_table(captured.table.runs);
  result.Set("pageTable", bytes(env, table.data(), table.size()));
  const auto pages = static_cast<double>(captured.table.stored_pages);
  result.Set("pagesWritten", number(env, pages));
  result.Set("pagesAliased", number(env, static_cast<double>(captured.table.aliased_pages)));
  result.Set("pagesScanned", number(env, pages + static_cast<double>(captured.table.aliased_pages +
                                                                     captured.table.parent_pages)));
  result.Set("pagesInParent", number(env, static_cast<double>(captured.table.parent_pages)));
  result.Set("scanUs", number(env, captured.scan_us));
  result.Set("freezingUs", number(env, captured.freezing_us));
  result.Set("frozenUs", number(env, captured.frozen_us));
  result.Set("memdumpUs", number(env, captured.memdump_us));
  result.Set("memwriteUs", number(env, captured.memwrite_us));
  result.Set("pinnedPeakBytes", number(env, static_cast<double>(captured.pinned_peak_bytes)));
  result.Set("covered", ranges_to_js(env, captured.covered));
  result.Set("resetUptimeUs", number(env, static_cast<double>(captured.reset_uptime_us)));
  result.Set("warnings", texts(env, captured.plan.warnings));
  return result;
}

Napi::Value control_attach(const Napi::CallbackInfo& info, DumpSession* session) {
  session->control_attach();
  return info.Env().Undefined();
}

Napi::Value control_prepare(const Napi::CallbackInfo& info, DumpSession* session) {
  const Napi::Env env = info.Env();
  std::vector<SurveyItem> items;
  const size_t round = session->control_prepare(
      round_kind(text_at(info, 1)), &items, info[2].As<Napi::Boolean>().Value(), whole_at(info, 3));
  Napi::BigUint64Array starts = Napi::BigUint64Array::New(env, items.size());
  Napi::BigUint64Array ends = Napi::BigUint64Array::New(env, items.size());
  Napi::Float64Array pages = Napi::Float64Array::New(env, items.size());
  Napi::Float64Array runs = Napi::Float64Array::New(env, items.size());
  double total = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    starts[i] = items[i].range.start;
    ends[i] = items[i].range.end;
    pages[i] = static_cast<double>(items[i].pages);
    runs[i] = static_cast<double>(items[i].runs);
    total += pages[i];
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("round", number(env, static_cast<double>(round)));
  result.Set("starts", starts);
  result.Set("ends", ends);
  result.Set("pages", pages);
  result.Set("runs", runs);
  result.Set("totalPages", number(env, total));
  return result;
}

Napi::Value control_capture(const Napi::CallbackInfo& info, DumpSession* session) {
  session->control_capture(whole_at(info, 1), whole_at(info, 2),
                           text_at(info, 3) == "stop" ? After::kStop : After::kResume);
  return info.Env().Undefined();
}

Napi::Value control_release(const Napi::CallbackInfo& info, DumpSession* session) {
  return number(info.Env(), session->control_release(release_of(text_at(info, 1))));
}

Napi::Value control_detach(const Napi::CallbackInfo& info, DumpSession* session) {
  return texts(info.Env(), session->control_detach());
}

Napi::Value lane_attach(const Napi::CallbackInfo& info, DumpSession* session) {
  const Napi::Env env = info.Env();
  const LaneAttached attached = session->lane_attach(index_of(info));
  Napi::Object result = Napi::Object::New(env);
  result.Set("backend", attached.with_helper ? "vmsplice" : "read");
  result.Set("fallbackReason", text(env, attached.fallback_reason));
  result.Set("stoppedUs", number(env, attached.stopped_us));
  return result;
}

Napi::Value lane_track(const Napi::CallbackInfo& info, DumpSession* session) {
  const Napi::Env env = info.Env();
  const TrackerAttached attached = session->lane_track();
  Napi::Object result = Napi::Object::New(env);
  result.Set("tracker", tracker_name(attached.mode));
  result.Set("reason", text(env, attached.reason));
  return result;
}

Napi::Value lane_capture(const Napi::CallbackInfo& info, DumpSession* session) {
  session->lane_capture(index_of(info), whole_at(info, 2), whole_at(info, 3));
  return info.Env().Undefined();
}

Napi::Value lane_detach(const Napi::CallbackInfo& info, DumpSession* session) {
  session->lane_detach(index_of(info));
  return info.Env().Undefined();
}

Napi::Value drain_open(const Napi::CallbackInfo& info, DumpSession* session) {
  session->drain_open(index_of(info), whole_at(info, 2), text_at(info, 3), whole_at(info, 4));
  return info.Env().Undefined();
}

Napi::Value drain_run(const Napi::CallbackInfo& info, DumpSession* session) {
  session->drain_run(index_of(info), whole_at(info, 2), whole_at(info, 3));
  return info.Env().Undefined();
}

Napi::Value drain_seal(const Napi::CallbackInfo& info, DumpSession* session) {
  const Napi::Env env = info.Env();
  const SealedShard sealed =
      session->drain_seal(index_of(info), whole_at(info, 2), whole_at(info, 3));
  Napi::Object result = Napi::Object::New(env);
  result.Set("file", text(env, sealed.file));
  result.Set("bytes", number(env, static_cast<double>(sealed.bytes)));
  result.Set("io", sealed.direct ? "direct" : "buffered");
  result.Set("ioReason", text(env, sealed.io_reason));
  result.Set("crcs", checksums_to_js(env, sealed.crcs));
  result.Set("checksumUs", number(env, sealed.checksum_us));
  result.Set("syncUs", number(env, sealed.sync_us));
  return result;
}

}  // namespace

void add_session_api(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("sessionOpen", session_open);
  add("sessionClose", session_close);
  add("sessionCancel", on_session<session_cancel>);
  add("sessionProgress", on_session<session_progress>);
  add("sessionSetCuts", on_session<session_set_cuts>);
  add("sessionFinishRound", on_session<session_finish_round>);
  add("controlAttach", on_session<control_attach>);
  add("controlPrepare", on_session<control_prepare>);
  add("controlCapture", on_session<control_capture>);
  add("controlRelease", on_session<control_release>);
  add("controlDetach", on_session<control_detach>);
  add("laneAttach", on_session<lane_attach>);
  add("laneTrack", on_session<lane_track>);
  add("laneCapture", on_session<lane_capture>);
  add("laneDetach", on_session<lane_detach>);
  add("drainOpen", on_session<drain_open>);
  add("drainRun", on_session<drain_run>);
  add("drainSeal", on_session<drain_seal>);
}

}  // namespace sluice::addon
