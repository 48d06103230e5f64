#include "restore/restore_session.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "base/page_ranges.h"
#include "kernel/proc_file.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_task.h"
#include "kernel/syscalls.h"
#include "kernel/target_facts.h"
#include "target/code_search.h"
#include "target/detach_remote.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_GUARD_REMOVE
#define MADV_GUARD_REMOVE 103
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

namespace sluice {
namespace {

using Kind = RestoreCall::Kind;

constexpr std::chrono::milliseconds kAttachLimit{500};
constexpr size_t kMostNamed = 3;
constexpr size_t kBlockBytes = size_t{1} << 20;
// In the helper's scratch, for arguments.
constexpr uint64_t kArgumentOffset = 4096;

Error incomplete(const Error& error) {
  if (error.is("RESTORE_INCOMPLETE") || error.is("TARGET_EXITED")) {
    return error;
  }
  return Error("RESTORE_INCOMPLETE", error.pid(), error.call().c_str(), error.err(),
               "its memory is half restored: " + error.detail());
}

bool is_private(const WantedVma& vma) {
  return vma.kind == VmaKind::kAnonymous || vma.kind == VmaKind::kPrivateFile;
}

// All of it is written, whatever its object has in it now.
bool is_object(const WantedVma& vma) {
  return vma.kind == VmaKind::kSharedMemory || vma.kind == VmaKind::kDeletedFile;
}

// The pages of the mapping that are within its file.
PageRange in_file(const WantedVma& vma) {
  const uint64_t pages_end = (vma.file->bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  const uint64_t bytes = pages_end > vma.mapping.offset ? pages_end - vma.mapping.offset : 0;
  return {vma.mapping.start,
          vma.mapping.start + std::min(bytes, vma.mapping.end - vma.mapping.start)};
}

}  // namespace

RestoreSession::RestoreSession(RestoreOptions options)
    : options_(std::move(options)), target_(options_.pid, options_.start_time_ticks) {
  require_dumpable(options_.pid);
  std::vector<PageRange> kept = options_.stored;
  kept.insert(kept.end(), options_.left_out.begin(), options_.left_out.end());
  kept_ = normalised(std::move(kept));
}

RestoreSession::~RestoreSession() = default;

Error RestoreSession::explain(const Error& error) const {
  return target_.is_found_ended()
             ? Error("TARGET_EXITED", options_.pid, "", 0, "it ended while it was restored")
             : error;
}

// Without the helper's own.
std::vector<Mapping> RestoreSession::maps() const {
  std::vector<Mapping> mappings = read_maps(options_.pid);
  if (helper_) {
    std::erase_if(mappings, [&](const Mapping& mapping) {
      return mapping.start == helper_->scratch().value();
    });
  }
  return mappings;
}

// ---- attaching

void RestoreSession::attach() {
  target_.claim();
  memory_ = std::make_unique<TargetMemory>(options_.pid);
  scan_ = PageScan::open(options_.pid);
  tracer_ = std::make_unique<TracerTask>();
  try {
    tracer_->run([&] { start_helper(); });
  } catch (...) {
    // Whatever a failed attempt still traces is let go by the end of the tracer task.
    tracer_.reset();
    throw;
  }
}

void RestoreSession::start_helper() {
  const auto present = read_maps(options_.pid);
  gadgets_ = find_gadgets(*memory_, present);
  auto thread = target_.stop_thread(*memory_, gadgets_, present, Clock::now() + kAttachLimit);
  remains_ = remove_remains(thread.get(), find_remains(*memory_, present));
  // The scratch must not stand where something is to be mapped.
  std::vector<PageRange> taken;
  for (const Mapping& mapping : present) {
    taken.push_back({mapping.start, mapping.end});
  }
  for (const WantedVma& vma : options_.vmas) {
    taken.push_back({vma.mapping.start, vma.mapping.end});
  }
  std::vector<Mapping> both;
  for (const PageRange& range : normalised(std::move(taken))) {
    Mapping mapping;
    mapping.start = range.start;
    mapping.end = range.end;
    both.push_back(mapping);
  }
  double stopped_us = 0;
  helper_ = Helper::start(std::move(thread), *memory_, gadgets_, both, &stopped_us, &remains_);
  raise_limits();
}

// It inherited limits of the process, some of which may have been lowered since. They are its own.
void RestoreSession::raise_limits() {
  for (const auto resource : {RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK, RLIMIT_STACK}) {
    const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
    rlimit limit{};
    if (prlimit(helper_->pid(), resource, &none, nullptr) != 0 &&
        prlimit(helper_->pid(), resource, nullptr, &limit) == 0) {
      limit.rlim_cur = limit.rlim_max;
      prlimit(helper_->pid(), resource, &limit, nullptr);
    }
  }
}

int64_t RestoreSession::remote(long number, std::initializer_list<uint64_t> args) {
  return helper_->call(arch::make_call(number, args));
}

// ---- checking

void RestoreSession::check() {
  tracer_->run([&] {
    check_threads(list_threads(options_.pid).value_or(std::vector<pid_t>{}));
    check_memory();
  });
}

// The helper of another dumper has a mapping of its own, which would be removed.
void RestoreSession::check_alone() const {
  for (const pid_t tid : list_threads(options_.pid).value_or(std::vector<pid_t>{})) {
    for (const pid_t child : list_children(options_.pid, tid).value_or(std::vector<pid_t>{})) {
      const auto stat = read_stat(child);
      if (stat && stat->exit_signal == 0 && !stat->is_zombie() && stat->comm == kHelperName &&
          child != helper_->pid()) {
        throw Error(
            "ALREADY_TRACED", options_.pid, "", 0,
            "another dump or restore is at work in it, with helper " + std::to_string(child));
      }
    }
  }
}

void RestoreSession::check_threads(const std::vector<pid_t>& tids) const {
  std::string text;
  const auto note = [&](pid_t tid, const char* what) {
    text += (text.empty() ? "" : ", ") + std::string("thread ") + std::to_string(tid) + what;
  };
  for (const pid_t tid : tids) {
    if (std::none_of(options_.threads.begin(), options_.threads.end(),
                     [&](const WantedThread& thread) { return thread.tid == tid; })) {
      note(tid, " is new");
    }
  }
  for (const WantedThread& thread : options_.threads) {
    if (std::find(tids.begin(), tids.end(), thread.tid) == tids.end()) {
      note(thread.tid, " is gone");
    }
  }
  if (!text.empty()) {
    throw Error("RESTORE_MISMATCH", options_.pid, "", 0, "its threads are others: " + text);
  }
}

// Registers are not restored, so a thread must stand where it stood, with what it keeps in
// registers; else it would go on with the stack of another function, or let the kernel write to
// another buffer.
void RestoreSession::check_registers() const {
  for (const FrozenThread& is : freeze_->threads()) {
    const auto was = std::find_if(options_.threads.begin(), options_.threads.end(),
                                  [&](const WantedThread& thread) { return thread.tid == is.tid; });
    const std::string text = was == options_.threads.end()
                                 ? "all"
                                 : arch::differing_registers(was->registers, is.registers);
    if (!text.empty()) {
      throw Error("RESTORE_MISMATCH", options_.pid, "", 0,
                  "thread " + std::to_string(is.tid) +
                      " stands elsewhere in its program than when it was dumped, and registers "
                      "are not restored: " +
                      text);
    }
  }
}

// Flags come from a walk through all page tables, so those of the first look are taken for as long
// as the mappings are the same.
std::vector<PresentVma> RestoreSession::present_vmas() {
  const std::vector<Mapping> mappings = maps();
  if (mappings != flagged_maps_) {
    flags_ = read_vm_flags(options_.pid);
    flagged_maps_ = mappings;
  }
  std::vector<PresentVma> vmas;
  auto flags = flags_.begin();
  for (const Mapping& mapping : mappings) {
    while (flags != flags_.end() && flags->start < mapping.start) {
      ++flags;
    }
    const bool known =
        flags != flags_.end() && flags->start == mapping.start && flags->end == mapping.end;
    vmas.push_back({mapping, known ? flags->flags : ""});
  }
  return vmas;
}

HeapBounds RestoreSession::heap_bounds() {
  const int64_t end = remote(SYS_brk, {0});
  const auto stat = read_stat(options_.pid);
  if (end < 0 || !stat) {
    throw Error("TARGET_EXITED", options_.pid, "brk", end < 0 ? static_cast<int>(-end) : 0,
                "its helper was killed");
  }
  return {stat->start_break, static_cast<uint64_t>(end)};
}

void RestoreSession::check_memory() {
  check_alone();
  const std::vector<PresentVma> present = present_vmas();
  plan_ = plan_restore(present, options_.vmas, heap_bounds());
  if (!plan_.mismatches.empty()) {
    std::string text;
    for (size_t i = 0; i < plan_.mismatches.size() && i < kMostNamed; ++i) {
      text += (i > 0 ? "; " : "") + plan_.mismatches[i];
    }
    if (plan_.mismatches.size() > kMostNamed) {
      text += "; and " + std::to_string(plan_.mismatches.size() - kMostNamed) + " more";
    }
    throw Error("RESTORE_MISMATCH", options_.pid, "", 0, text);
  }
  check_left_alone();
  MappedFiles files(options_.pid);
  auto now = present.begin();
  for (const WantedVma& then : options_.vmas) {
    while (now != present.end() && now->mapping.end <= then.mapping.start) {
      ++now;
    }
    const auto same = std::find_if(now, present.end(), [&](const PresentVma& vma) {
      return vma.mapping.start >= then.mapping.end || maps_same(vma.mapping, then.mapping);
    });
    if (then.mapping.inode != 0 && then.file && same != present.end() &&
        same->mapping.start < then.mapping.end) {
      check_file(then, same->mapping, &files);
    }
  }
  for (const RestoreCall& call : plan_.calls) {
    if (call.kind == Kind::kMapFile) {
      open_file(call.wanted);
    }
  }
  for (size_t i = 0; i < options_.vmas.size(); ++i) {
    const WantedVma& vma = options_.vmas[i];
    if (vma.kind == VmaKind::kPrivateFile && vma.file && is_in_pieces(vma, flagged_maps_)) {
      try {
        open_file(i);
      } catch (const Error&) {
        // Then the pieces stay as they are.
      }
    }
  }
}

bool RestoreSession::all_stored(PageRange range) const {
  return without(range, options_.stored).empty();
}

// What the image leaves to the file must be in it still.
void RestoreSession::check_file(const WantedVma& then, const Mapping& now,
                                MappedFiles* files) const {
  const auto& is = files->look_up(now);
  if (!is || is->device == 0 || then.file->device == 0 || then.kind == VmaKind::kExcluded ||
      then.file->character_device || is->character_device) {
    return;  // by its name alone, which was compared already
  }
  const bool left_to_file = !is_object(then) && !all_stored(in_file(then));
  std::string text;
  if (left_to_file || then.mapping.shared) {
    text = differing_file(*then.file, *is, left_to_file);
  } else if (is_object(then) && then.file->bytes != is->bytes) {
    text = differing_file(*then.file, *is, false);
  }
  if (!text.empty()) {
    throw Error("FILE_CHANGED", options_.pid, "", 0,
                then.mapping.path + " is not as it was when dumped: " + text);
  }
}

// Neither what the image has no bytes for, nor the code that the helper runs on, can be replaced.
void RestoreSession::check_left_alone() const {
  for (const RestoreCall& call : plan_.calls) {
    if (call.optional || call.undoable || call.kind == Kind::kBreak) {
      continue;
    }
    for (const PageRange& range : options_.left_out) {
      if (!intersect(range, call.range).empty()) {
        throw Error("RESTORE_MISMATCH", options_.pid, "", 0,
                    describe_range(intersect(range, call.range), {}) +
                        " is mapped otherwise than it was, and was left out of the image");
      }
    }
    if (call.kind == Kind::kProtect && (call.protection & PROT_EXEC) != 0) {
      continue;
    }
    for (const RemotePtr code : {gadgets_.syscall_return, gadgets_.sigreturn}) {
      if (code.value() >= call.range.start && code.value() < call.range.end) {
        throw Error("RESTORE_MISMATCH", options_.pid, "", 0,
                    describe_range(call.range, {}) +
                        " is mapped otherwise than it was, and holds the code that makes system "
                        "calls in it");
      }
    }
  }
}

// In the helper, which has the process's root and rights and a file table of its own.
void RestoreSession::open_file(size_t index) {
  if (helper_files_.contains(index)) {
    return;
  }
  const WantedVma& vma = options_.vmas[index];
  const std::string& path = vma.file->path;
  const auto refuse = [&](const char* call, int64_t result, const std::string& why) {
    throw Error("FILE_CHANGED", options_.pid, call, result < 0 ? static_cast<int>(-result) : 0,
                describe_range({vma.mapping.start, vma.mapping.end}, {}) +
                    " cannot be mapped from " + path + " again: " + why);
  };
  struct stat status{};
  // Looked at before it is opened, because opening a device can do things.
  if (::stat((proc_path(options_.pid, "root") + path).c_str(), &status) != 0) {
    refuse("stat", -errno, "it is gone");
  }
  const auto check = [&] {
    MappedFile is;
    note_status(status, &is);
    const std::string text = differing_file(*vma.file, is, true);
    if (!text.empty() || !S_ISREG(status.st_mode)) {
      refuse("", 0, text.empty() ? "it is no regular file" : text);
    }
  };
  check();
  const RemotePtr name = helper_->scratch() + kArgumentOffset;
  if (path.size() >= PATH_MAX ||
      !TargetMemory::write(helper_->pid(), name, path.c_str(), path.size() + 1)) {
    refuse("process_vm_writev", -EFAULT, "its name cannot be passed on");
  }
  const int64_t fd =
      remote(SYS_openat, {static_cast<uint64_t>(AT_FDCWD), name.value(), O_RDONLY | O_CLOEXEC});
  if (fd < 0) {
    refuse("openat", fd, "it cannot be opened");
  }
  const std::string opened = proc_path(helper_->pid(), std::string("fd/") + std::to_string(fd));
  if (::stat(opened.c_str(), &status) != 0) {
    refuse("stat", -errno, "it cannot be looked at");
  }
  check();
  helper_files_.emplace(index, static_cast<int>(fd));
}

// ---- freezing

std::vector<PageRange> RestoreSession::freeze() {
  try {
    tracer_->run([&] {
      stop_all();
      check_registers();
      check_memory();
      check_forced_write();
      open_shared_for_writing();
    });
  } catch (...) {
    abandon();
    throw;
  }
  std::vector<PageRange> fixed;
  for (const WantedVma& vma : options_.vmas) {
    const bool read_only =
        vma.mapping.shared && !vma.mapping.writable && !shared_files_.contains(&vma);
    if (vma.kind == VmaKind::kVdso || (read_only && vma.kind != VmaKind::kExcluded)) {
      fixed.push_back({vma.mapping.start, vma.mapping.end});
    }
  }
  return fixed;
}

void RestoreSession::stop_all() {
  const auto limit = std::chrono::milliseconds(options_.freeze_timeout_ms);
  const auto patience = [&] {
    return Patience{Clock::now() + limit, [this] {
                      if (cancelled_.load(std::memory_order_relaxed)) {
                        throw Error("CANCELLED", options_.pid, "", 0, "it was cancelled");
                      }
                    }};
  };
  patience().check();
  wait_until_stoppable(options_.pid, patience());
  freeze_ = std::make_unique<Freeze>(options_.pid, tracer_->pid(), patience());
  result_.freezing_us = freeze_->freezing_us();
  if (target_.has_ended()) {
    throw Error("TARGET_EXITED", options_.pid, "", 0, "it ended before it was frozen");
  }
  const auto present = read_maps(options_.pid);
  if (std::none_of(present.begin(), present.end(), [&](const Mapping& mapping) {
        return mapping.start == helper_->scratch().value();
      })) {
    throw Error("TARGET_EXECED", options_.pid, "", 0, "it has become another program by execve");
  }
  std::vector<pid_t> tids;
  for (const FrozenThread& thread : freeze_->threads()) {
    tids.push_back(thread.tid);
  }
  check_threads(tids);
  const long fd =
      sys::call(SYS_openat, AT_FDCWD, proc_path(options_.pid, "mem").c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    throw Error("PERMISSION", options_.pid, "openat", static_cast<int>(-fd),
                "its memory may not be written by this user");
  }
  mem_.reset(static_cast<int>(fd));
}

// Lets all go while nothing has been changed. What could not be stopped cannot be let go either:
// the end of the tracer task does that.
void RestoreSession::abandon() {
  try {
    tracer_->run([&] {
      freeze_.reset();
      if (helper_) {
        remains_.push_back(helper_->end());
        helper_.reset();
      }
    });
  } catch (const Error&) {
    // Whatever it traced is free.
  }
  tracer_.reset();
}

// A kernel may forbid writing to what the process itself may not write to.
void RestoreSession::check_forced_write() {
  for (const WantedVma& vma : options_.vmas) {
    if (!is_private(vma) || vma.mapping.writable) {
      continue;
    }
    const auto run =
        std::lower_bound(options_.stored.begin(), options_.stored.end(), vma.mapping.start,
                         [](const PageRange& range, uint64_t start) { return range.end <= start; });
    if (run == options_.stored.end() || run->start >= vma.mapping.end) {
      continue;
    }
    const RemotePtr at(std::max(run->start, vma.mapping.start));
    uint64_t word = 0;
    if (!memory_->read(at, &word, sizeof word)) {
      continue;
    }
    if (!write_memory(at, &word, sizeof word)) {
      throw Error("PERMISSION", options_.pid, "pwrite64", EIO,
                  "its read-only memory may not be written");
    }
    return;
  }
}

// What it maps read-only is written through the object itself.
void RestoreSession::open_shared_for_writing() {
  for (const WantedVma& vma : options_.vmas) {
    if (vma.mapping.shared && !vma.mapping.writable && is_object(vma)) {
      ScopedFd fd = open_mapped(vma, O_RDWR);
      if (fd) {
        shared_files_.emplace(&vma, std::move(fd));
      }
    }
  }
}

// Through any mapping of the same object that is there now.
ScopedFd RestoreSession::open_mapped(const WantedVma& vma, int flags) const {
  for (const Mapping& mapping : maps()) {
    if (mapping.end <= vma.mapping.start || mapping.start >= vma.mapping.end ||
        !maps_same(mapping, vma.mapping)) {
      continue;
    }
    char name[64];
    snprintf(name, sizeof name, "map_files/%lx-%lx", mapping.start, mapping.end);
    const long fd = sys::call(SYS_openat, AT_FDCWD, proc_path(options_.pid, name).c_str(),
                              flags | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) {
      return ScopedFd(static_cast<int>(fd));
    }
  }
  return ScopedFd();
}

bool RestoreSession::holds(RemotePtr address, std::span<const uint8_t> bytes) {
  std::vector<uint8_t> now(bytes.size());
  if (!memory_->read(address, now.data(), now.size())) {
    // Not a difference, if it has no memory any more.
    if (target_.is_found_ended()) {
      throw Error("TARGET_EXITED", options_.pid, "", 0, "it ended while it was restored");
    }
    return false;
  }
  return std::equal(now.begin(), now.end(), bytes.begin());
}

// ---- mappings

void RestoreSession::apply() {
  tracer_->run([&] {
    make_calls();
    try {
      join_pieces();
      check_result();
      drop_pages();
    } catch (const Error& error) {
      throw incomplete(error);
    }
  });
}

int64_t RestoreSession::make(const RestoreCall& call) {
  const uint64_t start = call.range.start;
  const uint64_t bytes = call.range.bytes();
  const auto protection = static_cast<uint64_t>(call.protection);
  const auto flags = static_cast<uint64_t>(call.map_flags);
  const auto at_start = [&](int64_t result) -> int64_t {
    return result < 0 ? result : static_cast<uint64_t>(result) == start ? 0 : -EEXIST;
  };
  switch (call.kind) {
    case Kind::kMapAnonymous:
      return at_start(remote(SYS_mmap, {start, bytes, protection, flags, ~uint64_t{0}, 0}));
    case Kind::kMapFile: {
      const auto fd = static_cast<uint64_t>(helper_files_.at(call.wanted));
      return at_start(remote(SYS_mmap, {start, bytes, protection, flags, fd, call.offset}));
    }
    case Kind::kUnmap:
      return remote(SYS_munmap, {start, bytes});
    case Kind::kBreak: {
      const int64_t now = remote(SYS_brk, {call.range.end});
      return now < 0 || static_cast<uint64_t>(now) == call.range.end ? std::min<int64_t>(now, 0)
                                                                     : -ENOMEM;
    }
    case Kind::kProtect:
      return remote(SYS_mprotect, {start, bytes, protection});
    case Kind::kAdvise:
      return remote(SYS_madvise, {start, bytes, static_cast<uint64_t>(call.advice)});
    case Kind::kLock:
      return remote(SYS_mlock2, {start, bytes, MLOCK_ONFAULT});
    case Kind::kUnlock:
      return remote(SYS_munlock, {start, bytes});
    case Kind::kName:
      break;
  }
  const RemotePtr name = helper_->scratch() + kArgumentOffset;
  if (!call.name.empty() &&
      !TargetMemory::write(helper_->pid(), name, call.name.c_str(), call.name.size() + 1)) {
    return -EFAULT;
  }
  return remote(SYS_prctl, {PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, bytes,
                            call.name.empty() ? 0 : name.value()});
}

void RestoreSession::undo(const RestoreCall& call) {
  const int64_t result = call.kind == Kind::kBreak
                             ? std::min<int64_t>(remote(SYS_brk, {call.range.start}), 0)
                             : remote(SYS_munmap, {call.range.start, call.range.bytes()});
  if (result < 0) {
    throw Error("RESTORE_INCOMPLETE", options_.pid, restore_call_name(call.kind),
                static_cast<int>(-result),
                "its memory is half restored: " + describe_range(call.range, {}) +
                    " was mapped and could not be unmapped again");
  }
}

void RestoreSession::count(const RestoreCall& call) {
  switch (call.kind) {
    case Kind::kMapAnonymous:
    case Kind::kMapFile:
      ++result_.mappings_mapped;
      break;
    case Kind::kUnmap:
      ++result_.mappings_unmapped;
      break;
    case Kind::kBreak:
      ++(call.range.end > call.range.start ? result_.mappings_mapped : result_.mappings_unmapped);
      break;
    case Kind::kProtect:
      ++result_.mappings_protected;
      break;
    default:
      break;
  }
}

void RestoreSession::make_calls() {
  std::vector<const RestoreCall*> done;
  bool changed = false;
  for (const RestoreCall& call : plan_.calls) {
    changed = changed || !(call.undoable || call.optional);
    const int64_t result = make(call);
    if (result >= 0) {
      count(call);
      done.push_back(&call);
      continue;
    }
    const std::string what = std::string(restore_call_name(call.kind)) + " of " +
                             describe_range(call.range, {}) + " failed";
    if (call.optional) {
      result_.warnings.push_back(what + ": " + std::strerror(static_cast<int>(-result)));
      continue;
    }
    const Error error("SYSTEM", options_.pid, restore_call_name(call.kind),
                      static_cast<int>(-result), what);
    if (changed) {
      throw incomplete(error);
    }
    for (auto each = done.rbegin(); each != done.rend(); ++each) {
      undo(**each);
    }
    throw error;
  }
}

bool RestoreSession::is_in_pieces(const WantedVma& vma, const std::vector<Mapping>& present) const {
  const auto first = std::upper_bound(
      present.begin(), present.end(), vma.mapping.start,
      [](uint64_t address, const Mapping& mapping) { return address < mapping.end; });
  return first != present.end() && first->end < vma.mapping.end;
}

// The kernel does not join neighbours of different origin. Their bytes are those of the image all
// the same, but mremap(2) tells them apart; so what was one mapping becomes one again.
void RestoreSession::join_pieces() {
  const std::vector<Mapping> present = maps();
  for (size_t i = 0; i < options_.vmas.size(); ++i) {
    const WantedVma& vma = options_.vmas[i];
    const Mapping& mapping = vma.mapping;
    const PageRange range{mapping.start, mapping.end};
    const auto within = [&](RemotePtr code) {
      return code.value() >= range.start && code.value() < range.end;
    };
    if (!is_private(vma) || !is_in_pieces(vma, present) || mapping.path == "[heap]" ||
        mapping.path == "[stack]" || within(gadgets_.syscall_return) ||
        within(gadgets_.sigreturn) ||
        std::any_of(options_.left_out.begin(), options_.left_out.end(),
                    [&](PageRange left_out) { return !intersect(left_out, range).empty(); })) {
      continue;
    }
    for (const RestoreCall& call : plan_anew(options_.vmas, i)) {
      if (call.kind == Kind::kMapFile && !helper_files_.contains(i)) {
        break;
      }
      const int64_t result = make(call);
      if (result >= 0) {
        count(call);
      } else if (!call.optional) {
        result_.warnings.push_back(describe_range(range, mapping) +
                                   " stays in pieces: " + std::strerror(static_cast<int>(-result)));
        break;
      }
    }
  }
}

// The kernel did what it was asked to.
void RestoreSession::check_result() {
  std::vector<PresentVma> present;
  for (const Mapping& mapping : maps()) {
    present.push_back({mapping, ""});
  }
  const RestorePlan left = plan_restore(present, options_.vmas, heap_bounds());
  for (const std::string& mismatch : left.mismatches) {
    throw Error("SYSTEM", options_.pid, "", 0, mismatch);
  }
  for (const RestoreCall& call : left.calls) {
    if (!call.optional) {
      throw Error("SYSTEM", options_.pid, "", 0,
                  describe_range(call.range, {}) + " still needs " + restore_call_name(call.kind));
    }
  }
}

// ---- pages

void RestoreSession::drop_pages() {
  for (const WantedVma& vma : options_.vmas) {
    if (is_private(vma)) {
      drop_private(vma);
    } else if (is_object(vma)) {
      clear_object(vma);
    }
  }
}

// Pages of its own that the image does not have: without them it reads zeros, or the file.
void RestoreSession::drop_private(const WantedVma& vma) {
  for (const PageRange& gap : without({vma.mapping.start, vma.mapping.end}, kept_)) {
    std::vector<PageRange> own;
    scan_->scan(gap, PageFilter::kOwn, [&](PageRange run) {
      own.push_back(run);
      return true;
    });
    if (own.empty()) {
      continue;
    }
    // What is not its own between them may be dropped as well.
    const PageRange all{own.front().start, own.back().end};
    const bool dropped = remote(SYS_madvise, {all.start, all.bytes(), MADV_DONTNEED}) == 0 ||
                         remote(SYS_madvise, {all.start, all.bytes(), MADV_DONTNEED_LOCKED}) == 0;
    for (const PageRange& run : own) {
      result_.pages_dropped += run.pages();
      if (!dropped) {
        refill(vma, run);
      }
    }
  }
}

// Writes over what cannot be dropped.
void RestoreSession::refill(const WantedVma& vma, PageRange range) {
  const ScopedFd fd = vma.kind == VmaKind::kPrivateFile ? open_mapped(vma, O_RDONLY) : ScopedFd();
  if (vma.kind == VmaKind::kPrivateFile && !fd) {
    throw Error("SYSTEM", options_.pid, "openat", EACCES,
                vma.mapping.path + " could not be opened to put back what it holds");
  }
  std::vector<uint8_t> block(std::min<uint64_t>(kBlockBytes, range.bytes()));
  for (uint64_t at = range.start; at < range.end; at += block.size()) {
    const size_t bytes = std::min<uint64_t>(block.size(), range.end - at);
    std::fill(block.begin(), block.end(), 0);
    if (fd) {
      const uint64_t offset = vma.mapping.offset + (at - vma.mapping.start);
      const long got = sys::call_restarting(SYS_pread64, fd.get(), block.data(), bytes, offset);
      if (got < 0) {
        throw Error("SYSTEM", options_.pid, "pread64", static_cast<int>(-got),
                    vma.mapping.path + " could not be read");
      }
    }
    write_range(vma, {at, at + bytes}, block.data());
  }
}

// Zeros wherever its object has data and the image has none.
void RestoreSession::clear_object(const WantedVma& vma) {
  const PageRange whole{vma.mapping.start, vma.mapping.end};
  std::vector<PageRange> used;
  const auto add = [&](PageRange run) {
    used.push_back(run);
    return true;
  };
  const ScopedFd fd = open_mapped(vma, O_RDONLY);
  struct statfs system{};
  const bool huge = fd && fstatfs(fd.get(), &system) == 0 && system.f_type == HUGETLBFS_MAGIC;
  const auto data =
      fd && !huge ? data_ranges(fd.get(), vma.mapping.offset, whole.bytes()) : std::nullopt;
  if (data) {
    for (const PageRange& range : *data) {
      add({whole.start + (range.start - vma.mapping.offset),
           whole.start + (range.end - vma.mapping.offset)});
    }
    if (!vma.mapping.shared) {
      scan_->scan(whole, PageFilter::kOwn, add);
    }
  } else {
    scan_->scan(whole, PageFilter::kPresent, add);
  }
  const std::vector<uint8_t> zeros(kBlockBytes);
  for (const PageRange& range : normalised(std::move(used))) {
    for (const PageRange& part : without(range, kept_)) {
      for (uint64_t at = part.start; at < part.end; at += zeros.size()) {
        const uint64_t end = std::min<uint64_t>(part.end, at + zeros.size());
        result_.pages_dropped += write_range(vma, {at, end}, zeros.data());
      }
    }
  }
}

const WantedVma& RestoreSession::vma_at(uint64_t address) const {
  const auto after =
      std::upper_bound(options_.vmas.begin(), options_.vmas.end(), address,
                       [](uint64_t at, const WantedVma& vma) { return at < vma.mapping.start; });
  if (after == options_.vmas.begin() || std::prev(after)->mapping.end <= address) {
    throw Error("RESTORE_INCOMPLETE", options_.pid, "", 0, "a page is in no mapping");
  }
  return *std::prev(after);
}

void RestoreSession::write(const std::vector<PageRange>& ranges, std::span<const uint8_t> bytes) {
  tracer_->run([&] {
    try {
      size_t used = 0;
      for (const PageRange& range : ranges) {
        for (uint64_t at = range.start; at < range.end;) {
          const WantedVma& vma = vma_at(at);
          const uint64_t end = std::min(range.end, vma.mapping.end);
          if (used + (end - at) > bytes.size()) {
            throw Error("OPTION", options_.pid, "", 0, "bytes are missing");
          }
          result_.pages_written += write_range(vma, {at, end}, bytes.data() + used);
          used += end - at;
          at = end;
        }
      }
    } catch (const Error& error) {
      throw incomplete(error);
    }
  });
}

// In pages that were written.
uint64_t RestoreSession::write_range(const WantedVma& vma, PageRange range, const uint8_t* bytes) {
  if (vma.mapping.shared || vma.kind == VmaKind::kVdso) {
    return write_shared(vma, range, bytes);
  }
  if (!write_memory(RemotePtr(range.start), bytes, range.bytes())) {
    // Guard pages that were not there then.
    remote(SYS_madvise, {range.start, range.bytes(), MADV_GUARD_REMOVE});
    if (!write_memory(RemotePtr(range.start), bytes, range.bytes())) {
      throw Error("SYSTEM", options_.pid, "pwrite64", EIO,
                  describe_range(range, vma.mapping) + " could not be written");
    }
  }
  return range.pages();
}

// Only pages that differ: others use the object as well.
uint64_t RestoreSession::write_shared(const WantedVma& vma, PageRange range, const uint8_t* bytes) {
  std::vector<uint8_t> now(range.bytes());
  const bool readable = memory_->read(RemotePtr(range.start), now.data(), now.size());
  const auto object = shared_files_.find(&vma);
  uint64_t written = 0;
  for (uint64_t at = range.start; at < range.end; at += kPageBytes) {
    const uint8_t* page = bytes + (at - range.start);
    if (readable && std::memcmp(now.data() + (at - range.start), page, kPageBytes) == 0) {
      continue;
    }
    bool done = false;
    if (object != shared_files_.end()) {
      const uint64_t offset = vma.mapping.offset + (at - vma.mapping.start);
      // Not beyond the end of a file, which would make it longer.
      const uint64_t left = vma.file && vma.file->bytes > offset ? vma.file->bytes - offset : 0;
      const uint64_t part = std::min(kPageBytes, left);
      done = sys::call_restarting(SYS_pwrite64, object->second.get(), page, part, offset) ==
             static_cast<long>(part);
    } else {
      done = write_memory(RemotePtr(at), page, kPageBytes);
    }
    if (!done) {
      throw Error("SYSTEM", options_.pid, "pwrite64", EIO,
                  describe_range({at, at + kPageBytes}, vma.mapping) + " could not be written");
    }
    ++written;
  }
  return written;
}

bool RestoreSession::write_memory(RemotePtr to, const void* from, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const long result =
        sys::call_restarting(SYS_pwrite64, mem_.get(), static_cast<const uint8_t*>(from) + done,
                             bytes - done, to.value() + done);
    if (result <= 0) {
      return false;
    }
    done += static_cast<size_t>(result);
  }
  return true;
}

// ---- the end

void RestoreSession::thaw() {
  if (freeze_ && tracer_) {
    tracer_->run([&] {
      freeze_->thaw();
      result_.frozen_us = freeze_->frozen_us();
      freeze_.reset();
    });
  }
}

std::vector<std::string> RestoreSession::detach() {
  if (tracer_) {
    abandon();
  }
  return remove_last_remains(target_, std::move(remains_));
}

}  // namespace sluice
