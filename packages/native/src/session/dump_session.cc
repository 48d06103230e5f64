#include "session/dump_session.h"

#include <elf.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "kernel/proc_file.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"
#include "kernel/proc_task.h"
#include "kernel/target_facts.h"
#include "target/detach_remote.h"
#include "target/target_memory.h"

namespace sluice {
namespace {

// What fs.pipe-max-size grants to everybody by default (pipe(7)).
constexpr uint64_t kMostSlotBytes = uint64_t{1} << 20;
// For buffers of the `read` backend in all lanes: more does not make it faster, and is resident.
constexpr uint64_t kMostReadBytes = uint64_t{16} << 20;
constexpr int kMostLooks = 50;
constexpr std::chrono::milliseconds kLookPause{1};
constexpr size_t kRandomBytes = 16;  // at AT_RANDOM

constexpr char kExeced[] = "it has become another program by execve since the dump began";

[[noreturn]] void throw_gone(pid_t pid) {
  throw Error("NO_SUCH_PROCESS", pid, "", 0, "there is no such process");
}

}  // namespace

DumpSession::DumpSession(const SessionOptions& options) : options_(options), files_(options.pid) {
  const pid_t pid = options_.pid;
  TargetFacts facts = require_dumpable(pid);
  target_ = TargetHandle(pid, facts.start_time_ticks,
                         options_.force ? DespiteFilter::kYes : DespiteFilter::kNo);
  identity_.name = std::move(facts.name);
  identity_.start_time_ticks = facts.start_time_ticks;
  identity_.namespace_pid = facts.namespace_pid;
  identity_.command_line = command_line(pid).value_or(std::vector<std::string>{});
  identity_.executable = executable(pid).value_or("");
  stamp_ = settled_stamp();
  chain_ = options_.known;
  if (!options_.placed_file.empty()) {
    places_ = std::make_unique<Places>(options_.placed_file, options_.places_from);
  }

  const uint64_t lane_budget = options_.budget_bytes / options_.lanes;
  LaneOptions lane;
  lane.pid = pid;
  lane.mode = options_.capture;
  lane.freeze_limit_ms = options_.freeze_limit_ms;
  lane.target = &target_;
  lane.slot_bytes = std::max(kPageBytes, std::bit_floor(std::min(kMostSlotBytes, lane_budget)));
  lane.slots = std::max<size_t>(1, lane_budget / lane.slot_bytes);
  const size_t read_slots = kMostReadBytes / options_.lanes / lane.slot_bytes;
  lane.read_slots = std::clamp<size_t>(read_slots, 1, lane.slots);
  for (lane.index = 0; lane.index < options_.lanes; ++lane.index) {
    lane.wants_helper = lane.index == 0 && (options_.tracker == TrackerMode::kAuto ||
                                            options_.tracker == TrackerMode::kUffdWp ||
                                            options_.consistency == Consistency::kTwin);
    lane.wants_program_break = lane.index == 0 && !places_;
    lanes_.push_back(std::make_unique<Lane>(lane));
  }
}

DumpSession::~DumpSession() {
  tracer_.reset();
  if (freeze_) {
    freeze_->abandon();
  }
}

uint64_t DumpSession::pages_captured() const {
  uint64_t pages = 0;
  for (const auto& lane : lanes_) {
    pages += lane->pages_captured();
  }
  return pages;
}

ProgramStamp DumpSession::program_stamp() const {
  const auto auxv = read_proc_file(options_.pid, "auxv");
  // Empty without memory.
  if (!auxv || auxv->empty()) {
    throw_gone(options_.pid);
  }
  ProgramStamp stamp{{auxv->begin(), auxv->end()}, {}};
  for (size_t at = 0; at + sizeof(Elf64_auxv_t) <= auxv->size(); at += sizeof(Elf64_auxv_t)) {
    Elf64_auxv_t entry;
    std::memcpy(&entry, auxv->data() + at, sizeof entry);
    if (entry.a_type == AT_RANDOM) {
      uint8_t random[kRandomBytes] = {};
      const TargetMemory memory(options_.pid);
      if (!memory.read(RemotePtr(entry.a_un.a_val), random, sizeof random)) {
        throw Error("SYSTEM", options_.pid, "", 0, "its stack could not be read");
      }
      stamp.random.assign(random, random + sizeof random);
    }
  }
  return stamp;
}

// In the middle of an execve a process has no memory for moments.
ProgramStamp DumpSession::settled_stamp() const {
  for (int look = 1;; ++look) {
    try {
      return program_stamp();
    } catch (const Error&) {
      if (look == kMostLooks || target_.has_ended()) {
        throw;
      }
    }
    std::this_thread::sleep_for(kLookPause);
  }
}

void DumpSession::require_same_program() const {
  if (target_.is_gone()) {
    throw Error("TARGET_EXITED", options_.pid, "", 0, "it ended while it was dumped");
  }
  if (program_stamp() != stamp_) {
    throw Error("TARGET_EXECED", options_.pid, "", 0, kExeced);
  }
}

Error DumpSession::explain(const Error& error) const {
  constexpr const char* kAboutTarget[] = {
      "PERMISSION",    "ALREADY_TRACED",      "NO_SUCH_PROCESS",
      "TARGET_EXITED", "FREEZE_TIMEOUT",      "CAPTURE_UNAVAILABLE",
      "INJECTION",     "TRACKER_UNAVAILABLE", "SYSTEM"};
  if (std::none_of(std::begin(kAboutTarget), std::end(kAboutTarget),
                   [&](const char* code) { return error.is(code); })) {
    return error;
  }
  const pid_t pid = options_.pid;
  // While it ends or executes another program, it has no memory that could be looked at.
  for (int look = 0; look < kMostLooks; ++look) {
    if (target_.is_found_ended()) {
      return Error("TARGET_EXITED", pid, "", 0, "it ended while it was dumped");
    }
    try {
      const bool same = program_stamp() == stamp_ && !error.is("NO_SUCH_PROCESS");
      return same ? error : Error("TARGET_EXECED", pid, "", 0, kExeced);
    } catch (const Error&) {
      std::this_thread::sleep_for(kLookPause);
    }
  }
  return error;
}

void DumpSession::control_attach() {
  target_.claim();
  tracer_ = std::make_unique<TracerTask>(&limit_);
}

std::vector<uint64_t> DumpSession::scratches() const {
  std::vector<uint64_t> addresses;
  for (const auto& lane : lanes_) {
    if (lane->scratch() != 0) {
      addresses.push_back(lane->scratch());
    }
  }
  return addresses;
}

std::vector<std::string> DumpSession::control_detach() {
  std::vector<HelperRemains> remains;
  for (const auto& lane : lanes_) {
    remains.insert(remains.end(), lane->remains().begin(), lane->remains().end());
  }
  try {
    if (freeze_ && tracer_) {
      control_release(Release::kResume);
    }
  } catch (const Error&) {
    // It goes on already.
  }
  try {
    if (tracker_) {
      tracker_->unwatch();
    }
  } catch (const Error&) {
    // The target is gone, or the end of the tracker does it at once.
  }
  tracker_.reset();
  tracer_.reset();
  const bool search = std::any_of(lanes_.begin(), lanes_.end(),
                                  [](const auto& lane) { return lane->was_cut_off(); });
  return remove_last_remains(target_, std::move(remains), search);
}

}  // namespace sluice
