// Dumps by number, as handles.h has it.
#include <memory>

#include "addon/api.h"
#include "addon/handles.h"
#include "addon/state_values.h"
#include "addon/values.h"
#include "session/dump_session.h"

namespace sluice::addon {
namespace {

Handles<DumpSession> g_sessions("session");

size_t index_of(const Napi::CallbackInfo& info) { return info[1].As<Napi::Number>().Uint32Value(); }

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

Consistency consistency_of(const std::string& name) {
  return name == "twin"   ? Consistency::kTwin
         : name == "copy" ? Consistency::kCopy
                          : Consistency::kAuto;
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
    options.freeze_limit_ms = static_cast<uint64_t>(integer_of(given, "freezeLimitMs"));
    options.consistency = consistency_of(text_of(given, "consistency"));
    options.hand_over = given.Get("handOver").ToBoolean();
    options.force = given.Get("force").ToBoolean();
    options.placed_file = text_of(given, "placedFile");
    options.places_from = static_cast<uint64_t>(integer_of(given, "placesFrom"));
    options.known = normalised(ranges_of(given.Get("known")));
    const auto session = std::make_shared<DumpSession>(options);
    const TargetIdentity& identity = session->identity();
    Napi::Object result = Napi::Object::New(env);
    result.Set("session", number(env, g_sessions.add(session)));
    result.Set("name", text(env, identity.name));
    result.Set("commandLine", texts(env, identity.command_line));
    result.Set("executable", text(env, identity.executable));
    result.Set("startTimeTicks", big(env, identity.start_time_ticks));
    result.Set("namespacePid", identity.namespace_pid);
    return result;
  });
}

Napi::Value session_progress(const Napi::CallbackInfo& info, DumpSession* session) {
  const Napi::Env env = info.Env();
  Napi::Object result = Napi::Object::New(env);
  result.Set("pagesCaptured", number(env, session->pages_captured()));
  result.Set("bytesDrained", number(env, session->bytes_drained()));
  result.Set("frozen", session->frozen());
  return result;
}

void session_set_cuts(const Napi::CallbackInfo& info, DumpSession* session) {
  const auto cuts = info[2].As<Napi::BigUint64Array>();
  session->set_cuts(whole_at(info, 1),
                    std::vector<uint64_t>(cuts.Data(), cuts.Data() + cuts.ElementLength()));
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
  result.Set("threads", list(env, captured.threads, [env](const ThreadState& thread) {
               return thread_to_js(env, thread);
             }));
  result.Set("state", state_to_js(env, captured.process));
  result.Set("leftOut", list(env, captured.left_out, [env](const LeftOut& item) {
               Napi::Object range = Napi::Object::New(env);
               range.Set("start", big(env, item.range.start));
               range.Set("end", big(env, item.range.end));
               range.Set("reason", text(env, item.reason));
               return range;
             }));
  const auto table = encode_page_table(captured.table.runs);
  result.Set("pageTable", bytes(env, table.data(), table.size()));
  const PageTable& pages = captured.table;
  result.Set("pagesWritten", number(env, pages.stored_pages));
  result.Set("pagesAliased", number(env, pages.aliased_pages));
  result.Set("pagesScanned",
             number(env, pages.stored_pages + pages.aliased_pages + pages.parent_pages));
  result.Set("pagesInParent", number(env, pages.parent_pages));
  result.Set("scanUs", number(env, captured.scan_us));
  result.Set("freezingUs", number(env, captured.freezing_us));
  result.Set("frozenUs", number(env, captured.frozen_us));
  result.Set("memdumpUs", number(env, captured.memdump_us));
  result.Set("memwriteUs", number(env, captured.memwrite_us));
  result.Set("pinnedPeakBytes", number(env, captured.pinned_peak_bytes));
  result.Set("covered", ranges_to_js(env, captured.covered));
  result.Set("consistency", captured.by_twin ? "twin" : "copy");
  result.Set("consistencyReason", text(env, captured.consistency_reason));
  result.Set("resetUptimeUs", number(env, captured.reset_uptime_us));
  result.Set("warnings", texts(env, captured.plan.warnings));
  return result;
}

Places* places_of(DumpSession* session) {
  if (session->places() == nullptr) {
    throw Error("OPTION", 0, "", 0, "pages have no places in this session");
  }
  return session->places();
}

Napi::Value session_places(const Napi::CallbackInfo& info, DumpSession* session) {
  const Napi::Env env = info.Env();
  const std::vector<Placed> extents = places_of(session)->extents();
  std::vector<PageRange> ranges;
  Napi::Float64Array offsets = Napi::Float64Array::New(env, extents.size());
  for (size_t i = 0; i < extents.size(); ++i) {
    ranges.push_back(extents[i].range);
    offsets[i] = static_cast<double>(extents[i].offset);
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("ranges", ranges_to_js(env, ranges));
  result.Set("offsets", offsets);
  result.Set("end", number(env, places_of(session)->end()));
  return result;
}

void drain_clear(const Napi::CallbackInfo& info, DumpSession* session) {
  places_of(session)->clear_all_but(ranges_of(info[1]));
}

Napi::Value control_repeat(const Napi::CallbackInfo& info, DumpSession* session) {
  return number(info.Env(), session->control_repeat(whole_at(info, 1)));
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
  result.Set("round", number(env, round));
  result.Set("starts", starts);
  result.Set("ends", ends);
  result.Set("pages", pages);
  result.Set("runs", runs);
  result.Set("totalPages", number(env, total));
  return result;
}

void control_capture(const Napi::CallbackInfo& info, DumpSession* session) {
  session->control_capture(whole_at(info, 1), whole_at(info, 2),
                           text_at(info, 3) == "stop" ? After::kStop : After::kResume);
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

void lane_capture(const Napi::CallbackInfo& info, DumpSession* session) {
  session->lane_capture(index_of(info), whole_at(info, 2), whole_at(info, 3));
}

void lane_detach(const Napi::CallbackInfo& info, DumpSession* session) {
  session->lane_detach(index_of(info));
}

void drain_open(const Napi::CallbackInfo& info, DumpSession* session) {
  session->drain_open(index_of(info), whole_at(info, 2), text_at(info, 3), whole_at(info, 4));
}

void drain_run(const Napi::CallbackInfo& info, DumpSession* session) {
  session->drain_run(index_of(info), whole_at(info, 2), whole_at(info, 3));
}

Napi::Value drain_seal(const Napi::CallbackInfo& info, DumpSession* session) {
  const Napi::Env env = info.Env();
  const SealedShard sealed = session->drain_seal(
      index_of(info), whole_at(info, 2), whole_at(info, 3), info[4].As<Napi::Boolean>().Value());
  Napi::Object result = Napi::Object::New(env);
  result.Set("file", text(env, sealed.file));
  result.Set("bytes", number(env, sealed.bytes));
  result.Set("io", sealed.direct ? "direct" : "buffered");
  result.Set("ioReason", text(env, sealed.io_reason));
  result.Set("crcs", checksums_to_js(env, sealed.crcs));
  result.Set("checksumUs", number(env, sealed.checksum_us));
  result.Set("syncUs", number(env, sealed.sync_us));
  return result;
}

}  // namespace

void add_session_api(Napi::Env env, Napi::Object exports) {
  add_function(env, exports, "sessionOpen", session_open);
  add_function(env, exports, "sessionClose", close_handle<g_sessions>);
  add_function(env, exports, "sessionCancel", on<g_sessions, &DumpSession::cancel>);
  add_function(env, exports, "sessionProgress", on<g_sessions, session_progress>);
  add_function(env, exports, "sessionSetCuts", on<g_sessions, session_set_cuts>);
  add_function(env, exports, "sessionFinishRound", on<g_sessions, session_finish_round>);
  add_function(env, exports, "sessionPlaces", on<g_sessions, session_places>);
  add_function(env, exports, "controlAttach", on<g_sessions, &DumpSession::control_attach>);
  add_function(env, exports, "controlPrepare", on<g_sessions, control_prepare>);
  add_function(env, exports, "controlRepeat", on<g_sessions, control_repeat>);
  add_function(env, exports, "controlCapture", on<g_sessions, control_capture>);
  add_function(env, exports, "controlRelease", on<g_sessions, control_release>);
  add_function(env, exports, "controlRequireHeld",
               on<g_sessions, &DumpSession::control_require_held>);
  add_function(env, exports, "controlDetach", on<g_sessions, control_detach>);
  add_function(env, exports, "laneAttach", on<g_sessions, lane_attach>);
  add_function(env, exports, "laneTrack", on<g_sessions, lane_track>);
  add_function(env, exports, "laneCapture", on<g_sessions, lane_capture>);
  add_function(env, exports, "laneDetach", on<g_sessions, lane_detach>);
  add_function(env, exports, "drainOpen", on<g_sessions, drain_open>);
  add_function(env, exports, "drainRun", on<g_sessions, drain_run>);
  add_function(env, exports, "drainClear", on<g_sessions, drain_clear>);
  add_function(env, exports, "drainSeal", on<g_sessions, drain_seal>);
}

}  // namespace sluice::addon
