#include "restore/mapping_calls_remote.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "kernel/proc_file.h"
#include "kernel/proc_stat.h"
#include "kernel/steps.h"
#include "kernel/syscalls.h"
#include "restore/incomplete.h"
#include "target/code_search.h"
#include "target/target_memory.h"

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

// In the helper's scratch, for arguments.
constexpr uint64_t kArgumentOffset = 4096;

bool is_in_pieces(const WantedVma& vma, const std::vector<Mapping>& present) {
  const auto first = std::upper_bound(
      present.begin(), present.end(), vma.mapping.start,
      [](uint64_t address, const Mapping& mapping) { return address < mapping.end; });
  return first != present.end() && first->end < vma.mapping.end;
}

}  // namespace

int64_t MappingCalls::remote(long number, std::initializer_list<uint64_t> args) {
  return helper_->call(arch::make_call(number, args));
}

HeapBounds MappingCalls::heap_bounds() {
  const int64_t end = remote(SYS_brk, {0});
  const auto stat = read_stat(pid_);
  if (end < 0 || !stat) {
    throw Error("TARGET_EXITED", pid_, "brk", end < 0 ? static_cast<int>(-end) : 0,
                "its helper was killed");
  }
  return {stat->addresses.start_break, static_cast<uint64_t>(end)};
}

void MappingCalls::open_files(const RestorePlan& plan, const std::vector<Mapping>& present,
                              const MappedFiles& files, Ask ask) {
  for (const RestoreCall& call : plan.calls) {
    if (call.kind == Kind::kMapFile) {
      open_file(call.wanted, files, ask);
    }
  }
  for (size_t i = 0; i < wanted_.size(); ++i) {
    const WantedVma& vma = wanted_[i];
    if (vma.kind == VmaKind::kPrivateFile && vma.file && is_in_pieces(vma, present)) {
      try {
        open_file(i, files, ask);
      } catch (const Error&) {
        // Then the pieces stay as they are.
      }
    }
  }
}

// In the helper, which has the process's root and rights and a file table of its own.
void MappingCalls::open_file(size_t index, const MappedFiles& files, Ask ask) {
  if (helper_files_.contains(index)) {
    return;
  }
  const WantedVma& vma = wanted_[index];
  const std::string& path = vma.file->path;
  const auto refuse = [&](const char* call, int64_t result, const std::string& why) {
    throw Error(
        "FILE_CHANGED", pid_, call, result < 0 ? static_cast<int>(-result) : 0,
        describe_range(vma.range(), {}) + " cannot be mapped from " + path + " again: " + why);
  };
  if (files.withholds(vma.mapping, ask)) {
    refuse("", 0,
           "it was unmapped right before the freeze, in which its file system may not be "
           "asked, for that may never answer; try again");
  }
  struct stat status{};
  // Looked at before it is opened, because opening a device can do things.
  if (::stat((proc_path(pid_, "root") + path).c_str(), &status) != 0) {
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

void MappingCalls::make_all(const RestorePlan& plan) {
  std::vector<const RestoreCall*> made;
  bool changed = false;
  for (const RestoreCall& call : plan.calls) {
    changed = changed || !(call.undoable || call.optional);
    const int64_t result = make(call);
    if (result >= 0) {
      steps::at(steps::Step::kMappingChanged);
      count(call);
      made.push_back(&call);
      continue;
    }
    const std::string what = std::string(restore_call_name(call.kind)) + " of " +
                             describe_range(call.range, {}) + " failed";
    if (call.optional) {
      done_.warnings.push_back(what + ": " + std::strerror(static_cast<int>(-result)));
      continue;
    }
    const Error error("SYSTEM", pid_, restore_call_name(call.kind), static_cast<int>(-result),
                      what);
    if (changed) {
      throw incomplete(error);
    }
    for (auto each = made.rbegin(); each != made.rend(); ++each) {
      undo(**each);
    }
    throw error;
  }
}

int64_t MappingCalls::make(const RestoreCall& call) {
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

void MappingCalls::undo(const RestoreCall& call) {
  const int64_t result = call.kind == Kind::kBreak
                             ? std::min<int64_t>(remote(SYS_brk, {call.range.start}), 0)
                             : remote(SYS_munmap, {call.range.start, call.range.bytes()});
  if (result < 0) {
    throw Error("RESTORE_INCOMPLETE", pid_, restore_call_name(call.kind), static_cast<int>(-result),
                "it is half restored: " + describe_range(call.range, {}) +
                    " was mapped and could not be unmapped again");
  }
}

void MappingCalls::count(const RestoreCall& call) {
  switch (call.kind) {
    case Kind::kMapAnonymous:
    case Kind::kMapFile:
      ++done_.mapped;
      break;
    case Kind::kUnmap:
      ++done_.unmapped;
      break;
    case Kind::kBreak:
      ++(call.range.end > call.range.start ? done_.mapped : done_.unmapped);
      break;
    case Kind::kProtect:
      ++done_.protection_changed;
      break;
    default:
      break;
  }
}

void MappingCalls::join_pieces(const std::vector<Mapping>& present,
                               const std::vector<PageRange>& left_out,
                               const arch::Gadgets& gadgets) {
  for (size_t i = 0; i < wanted_.size(); ++i) {
    const WantedVma& vma = wanted_[i];
    const Mapping& mapping = vma.mapping;
    const PageRange range = vma.range();
    if (!vma.is_private() || !is_in_pieces(vma, present) || mapping.path == "[heap]" ||
        mapping.path == "[stack]" || gadgets_within(gadgets, range) ||
        std::any_of(left_out.begin(), left_out.end(),
                    [&](PageRange part) { return !intersect(part, range).empty(); })) {
      continue;
    }
    for (const RestoreCall& call : plan_anew(wanted_, i)) {
      if (call.kind == Kind::kMapFile && !helper_files_.contains(i)) {
        break;
      }
      const int64_t result = make(call);
      if (result >= 0) {
        count(call);
      } else if (!call.optional) {
        done_.warnings.push_back(describe_range(range, mapping) +
                                 " stays in pieces: " + std::strerror(static_cast<int>(-result)));
        break;
      }
    }
  }
}

bool MappingCalls::drop(PageRange range) {
  return remote(SYS_madvise, {range.start, range.bytes(), MADV_DONTNEED}) == 0 ||
         remote(SYS_madvise, {range.start, range.bytes(), MADV_DONTNEED_LOCKED}) == 0;
}

void MappingCalls::remove_guards(PageRange range) {
  remote(SYS_madvise, {range.start, range.bytes(), MADV_GUARD_REMOVE});
}

}  // namespace sluice
