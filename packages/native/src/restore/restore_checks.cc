#include "restore/restore_checks.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/error.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_task.h"
#include "target/code_search.h"
#include "target/helper_remote.h"

namespace sluice {
namespace {

constexpr size_t kMostNamed = 3;

// The pages of the mapping that are within its file.
PageRange in_file(const WantedVma& vma) {
  const uint64_t pages_end = (vma.file->bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  const uint64_t bytes = pages_end > vma.mapping.offset ? pages_end - vma.mapping.offset : 0;
  return {vma.mapping.start,
          vma.mapping.start + std::min(bytes, vma.mapping.end - vma.mapping.start)};
}

// What the image leaves to the file must be in it still.
void require_same_file(pid_t pid, const WantedVma& then, const Mapping& now,
                       const std::vector<PageRange>& stored, MappedFiles* files, Ask ask) {
  const LookUp& known = files->look_up(now, ask);
  const auto& is = known.file;
  if (known.unasked) {
    throw Error("RESTORE_MISMATCH", pid, "", 0,
                then.mapping.path +
                    " was mapped right before the freeze, in which its file system may not be "
                    "asked, for that may never answer; try again");
  }
  if (!is || is->device == 0 || then.file->device == 0 || then.kind == VmaKind::kExcluded ||
      then.file->character_device || is->character_device) {
    return;  // by its name alone, which was compared already
  }
  const bool left_to_file = !then.is_object() && !without(in_file(then), stored).empty();
  std::string text;
  if (left_to_file || then.mapping.shared) {
    text = differing_file(*then.file, *is, left_to_file);
  } else if (then.is_object() && then.file->bytes != is->bytes) {
    text = differing_file(*then.file, *is, false);
  }
  if (!text.empty()) {
    throw Error("FILE_CHANGED", pid, "", 0,
                then.mapping.path + " is not as it was when dumped: " + text);
  }
}

}  // namespace

void require_alone(pid_t pid, pid_t helper) {
  for (const pid_t tid : list_threads(pid).value_or(std::vector<pid_t>{})) {
    for (const pid_t child : list_children(pid, tid).value_or(std::vector<pid_t>{})) {
      const auto stat = read_stat(child);
      if (stat && stat->exit_signal == 0 && !stat->is_zombie() && stat->comm == kHelperName &&
          child != helper) {
        throw Error(
            "ALREADY_TRACED", pid, "", 0,
            "another dump or restore is at work in it, with helper " + std::to_string(child));
      }
    }
  }
}

void require_possible(pid_t pid, const RestorePlan& plan) {
  if (!plan.mismatches.empty()) {
    std::string text;
    for (size_t i = 0; i < plan.mismatches.size() && i < kMostNamed; ++i) {
      text += (i > 0 ? "; " : "") + plan.mismatches[i];
    }
    if (plan.mismatches.size() > kMostNamed) {
      text += "; and " + std::to_string(plan.mismatches.size() - kMostNamed) + " more";
    }
    throw Error("RESTORE_MISMATCH", pid, "", 0, text);
  }
}

void require_left_alone(pid_t pid, const RestorePlan& plan, const std::vector<PageRange>& left_out,
                        const arch::Gadgets& gadgets) {
  for (const RestoreCall& call : plan.calls) {
    if (call.optional || call.undoable || call.kind == RestoreCall::Kind::kBreak) {
      continue;
    }
    for (const PageRange& range : left_out) {
      if (!intersect(range, call.range).empty()) {
        throw Error("RESTORE_MISMATCH", pid, "", 0,
                    describe_range(intersect(range, call.range), {}) +
                        " is mapped otherwise than it was, and was left out of the image");
      }
    }
    if (call.kind == RestoreCall::Kind::kProtect && (call.protection & PROT_EXEC) != 0) {
      continue;
    }
    if (gadgets_within(gadgets, call.range)) {
      throw Error("RESTORE_MISMATCH", pid, "", 0,
                  describe_range(call.range, {}) +
                      " is mapped otherwise than it was, and holds the code that makes system "
                      "calls in it");
    }
  }
}

void require_same_files(pid_t pid, const std::vector<WantedVma>& wanted,
                        const std::vector<PresentVma>& present,
                        const std::vector<PageRange>& stored, MappedFiles* files, Ask ask) {
  auto now = present.begin();
  for (const WantedVma& then : wanted) {
    while (now != present.end() && now->mapping.end <= then.mapping.start) {
      ++now;
    }
    const auto same = std::find_if(now, present.end(), [&](const PresentVma& vma) {
      return vma.mapping.start >= then.mapping.end || maps_same(vma.mapping, then.mapping);
    });
    if (has_file(then.mapping) && then.file && same != present.end() &&
        same->mapping.start < then.mapping.end) {
      require_same_file(pid, then, same->mapping, stored, files, ask);
    }
  }
}

void require_mapped(pid_t pid, const std::vector<Mapping>& present,
                    const std::vector<WantedVma>& wanted, HeapBounds heap) {
  std::vector<PresentVma> vmas;
  for (const Mapping& mapping : present) {
    vmas.push_back({mapping, ""});
  }
  const RestorePlan left = plan_restore(vmas, wanted, heap);
  for (const std::string& mismatch : left.mismatches) {
    throw Error("SYSTEM", pid, "", 0, mismatch);
  }
  for (const RestoreCall& call : left.calls) {
    if (!call.optional) {
      throw Error("SYSTEM", pid, "", 0,
                  describe_range(call.range, {}) + " still needs " + restore_call_name(call.kind));
    }
  }
}

}  // namespace sluice
