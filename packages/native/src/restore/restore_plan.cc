#include "restore/restore_plan.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <string_view>

namespace sluice {
namespace {

using Kind = RestoreCall::Kind;

constexpr std::string_view kDeleted = " (deleted)";
constexpr std::string_view kNamed = "[anon:";

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.rfind(prefix, 0) == 0;
}

uint64_t page_up(uint64_t address) { return (address + kPageBytes - 1) / kPageBytes * kPageBytes; }

PageRange range_of(const Mapping& mapping) { return {mapping.start, mapping.end}; }

// Provided by the kernel, at a place that it chose.
bool is_kernel_own(const Mapping& mapping) {
  return mapping.path == "[vdso]" || starts_with(mapping.path, "[vvar") ||
         mapping.path == "[vsyscall]" || mapping.path == "[uprobes]";
}

std::string_view plain_path(const Mapping& mapping) {
  std::string_view path = mapping.path;
  if (path.size() >= kDeleted.size() && path.substr(path.size() - kDeleted.size()) == kDeleted) {
    path.remove_suffix(kDeleted.size());
  }
  return path;
}

int protection_of(const Mapping& mapping) {
  return (mapping.readable ? PROT_READ : 0) | (mapping.writable ? PROT_WRITE : 0) |
         (mapping.executable ? PROT_EXEC : 0);
}

// As given by prctl(PR_SET_VMA_ANON_NAME), or "".
std::string given_name(const Mapping& mapping) {
  return starts_with(mapping.path, kNamed)
             ? mapping.path.substr(kNamed.size(), mapping.path.size() - kNamed.size() - 1)
             : "";
}

// Advice that a flag tells of, and what takes it back.
struct Advice {
  const char* flag;
  int set;
  int clear;
};
constexpr Advice kAdvices[] = {
    {"dc", MADV_DONTFORK, MADV_DOFORK},
    {"wf", MADV_WIPEONFORK, MADV_KEEPONFORK},
    {"dd", MADV_DONTDUMP, MADV_DODUMP},
    {"mg", MADV_MERGEABLE, MADV_UNMERGEABLE},
};

class Planner {
 public:
  Planner(std::vector<PresentVma> present, const std::vector<WantedVma>& wanted, HeapBounds heap)
      : present_(std::move(present)), wanted_(wanted), heap_(heap) {}

  RestorePlan make() {
    check_fixed();
    move_break();
    for_each_segment([this](PageRange range, const PresentVma* now, const WantedVma* then) {
      if (then == nullptr) {
        remove(range, *now);
      } else if (then->kind == VmaKind::kExcluded || is_kernel_own(then->mapping)) {
        require_unchanged(range, now, *then);
      } else if (now == nullptr) {
        map(range, *then, true);
      } else if (maps_same(now->mapping, then->mapping)) {
        adjust(range, *now, *then);
      } else if (is_kernel_own(now->mapping)) {
        mismatch(describe_range(range, now->mapping) + " stands where the image has " +
                 named(then->mapping));
      } else if (may_change(range, *now, "be replaced")) {
        map(range, *then, false);
      }
    });
    return finish();
  }

  RestorePlan anew(size_t index) {
    map(range_of(wanted_[index].mapping), wanted_[index], false);
    return finish();
  }

 private:
  using Calls = std::vector<RestoreCall>;

  RestorePlan finish() {
    RestorePlan plan;
    for (auto* calls : {&undoable_, &before_break_, &break_, &unmaps_, &maps_, &changes_}) {
      plan.calls.insert(plan.calls.end(), calls->begin(), calls->end());
    }
    plan.mismatches = std::move(mismatches_);
    return plan;
  }

  static std::string named(const Mapping& mapping) {
    return mapping.path.empty() ? "anonymous memory" : mapping.path;
  }

  void mismatch(std::string text) { mismatches_.push_back(std::move(text)); }

  // What only the kernel places, and what the stack hangs on.
  void check_fixed() {
    for (const PresentVma& vma : present_) {
      const auto same = [&](const WantedVma& then) {
        return then.mapping.path == vma.mapping.path && then.mapping.start == vma.mapping.start &&
               then.mapping.end == vma.mapping.end;
      };
      if (is_kernel_own(vma.mapping) && std::none_of(wanted_.begin(), wanted_.end(), same)) {
        mismatch(describe_range(range_of(vma.mapping), vma.mapping) + " was not there");
      }
    }
    for (const WantedVma& then : wanted_) {
      const auto same_end = [&](const PresentVma& vma) {
        return vma.mapping.path == "[stack]" && vma.mapping.end == then.mapping.end;
      };
      if (then.mapping.path == "[stack]" &&
          std::none_of(present_.begin(), present_.end(), same_end)) {
        mismatch("the stack is not at " + describe_range(range_of(then.mapping), then.mapping) +
                 " any more");
      }
    }
  }

  template <typename Vma>
  static uint64_t heap_end(const std::vector<Vma>& vmas, uint64_t without) {
    uint64_t end = without;
    for (const Vma& vma : vmas) {
      if (vma.mapping.path == "[heap]") {
        end = vma.mapping.end;
      }
    }
    return end;
  }

  // The break itself is in no image: it follows from the end of the mappings called [heap]. From
  // here on `heap_change_` is looked at as if the break had been moved already.
  void move_break() {
    const uint64_t none = page_up(heap_.start);
    const uint64_t then = heap_end(wanted_, none);
    const uint64_t shown = heap_end(present_, none);
    const uint64_t now = page_up(heap_.end);
    if (then == shown) {
      return;
    }
    if (shown != now) {
      mismatch("the end of the heap, " + describe_range({now, shown}, {}) +
               ", is not where its mappings end");
      return;
    }
    RestoreCall call;
    call.kind = Kind::kBreak;
    call.range = {heap_.end, then};
    if (then < now) {
      break_.push_back(call);
      heap_change_ = {then, now};
      return;
    }
    // The kernel wants a free page beyond.
    for (const PresentVma& vma : present_) {
      const PageRange way = intersect(range_of(vma.mapping), {now, then + kPageBytes});
      if (way.empty()) {
        continue;
      }
      const PageRange beyond = intersect(way, {then, then + kPageBytes});
      if (!beyond.empty() &&
          std::any_of(wanted_.begin(), wanted_.end(), [&](const WantedVma& wanted) {
            return !intersect(range_of(wanted.mapping), beyond).empty() &&
                   maps_same(wanted.mapping, vma.mapping);
          })) {
        mismatch(describe_range(beyond, vma.mapping) + " is in the way of the heap");
      } else if (may_change(way, vma, "be removed")) {
        RestoreCall unmap;
        unmap.range = way;
        before_break_.push_back(unmap);
      }
    }
    call.undoable = before_break_.empty();
    (call.undoable ? undoable_ : break_).push_back(call);
    heap_change_ = {now, then};
    heap_grows_ = true;
    grown_.mapping.start = now;
    grown_.mapping.end = then;
    grown_.mapping.readable = grown_.mapping.writable = true;
    grown_.mapping.path = "[heap]";
    grown_.flags = "mr mw me";
  }

  // What is mapped once the break has been moved.
  std::vector<PresentVma> after_break() const {
    if (heap_change_.empty()) {
      return present_;
    }
    std::vector<PageRange> gone{heap_change_};
    for (const RestoreCall& call : before_break_) {
      if (call.range.end > heap_change_.end) {
        gone.push_back({std::max(call.range.start, heap_change_.end), call.range.end});
      }
    }
    std::vector<PresentVma> vmas;
    for (const PresentVma& vma : present_) {
      for (const PageRange& part : without(range_of(vma.mapping), gone)) {
        PresentVma rest = vma;
        rest.mapping.start = part.start;
        rest.mapping.end = part.end;
        if (has_file(vma.mapping)) {
          rest.mapping.offset += part.start - vma.mapping.start;
        }
        vmas.push_back(std::move(rest));
      }
    }
    if (heap_grows_) {
      const auto at = std::find_if(vmas.begin(), vmas.end(), [&](const PresentVma& vma) {
        return vma.mapping.start > grown_.mapping.start;
      });
      vmas.insert(at, grown_);
    }
    return vmas;
  }

  template <typename Look>
  void for_each_segment(Look look) {
    const std::vector<PresentVma> present = after_break();
    size_t n = 0;
    size_t w = 0;
    uint64_t at = 0;
    while (n < present.size() || w < wanted_.size()) {
      const PresentVma* now = n < present.size() ? &present[n] : nullptr;
      const WantedVma* then = w < wanted_.size() ? &wanted_[w] : nullptr;
      const uint64_t now_start = now ? std::max(at, now->mapping.start) : ~uint64_t{0};
      const uint64_t then_start = then ? std::max(at, then->mapping.start) : ~uint64_t{0};
      const uint64_t start = std::min(now_start, then_start);
      const bool in_now = now != nullptr && now_start == start;
      const bool in_then = then != nullptr && then_start == start;
      uint64_t end = ~uint64_t{0};
      if (now != nullptr) {
        end = std::min(end, in_now ? now->mapping.end : now_start);
      }
      if (then != nullptr) {
        end = std::min(end, in_then ? then->mapping.end : then_start);
      }
      look(PageRange{start, end}, in_now ? now : nullptr, in_then ? then : nullptr);
      at = end;
      n += in_now && now->mapping.end == end ? 1 : 0;
      w += in_then && then->mapping.end == end ? 1 : 0;
    }
  }

  bool may_change(PageRange range, const PresentVma& vma, const char* how) {
    if (!has_vm_flag(vma.flags, "sl")) {
      return true;
    }
    mismatch(describe_range(range, vma.mapping) + " is sealed and cannot " + how);
    return false;
  }

  void require_unchanged(PageRange range, const PresentVma* now, const WantedVma& then) {
    if (now == nullptr || !maps_same(now->mapping, then.mapping) ||
        protection_of(now->mapping) != protection_of(then.mapping)) {
      mismatch(describe_range(range, then.mapping) +
               " is not as it was, and it is nothing that an image can bring back");
    }
  }

  // Joins it with the call before, if that is the same for the pages before.
  static void add(Calls* calls, RestoreCall call) {
    if (!calls->empty()) {
      RestoreCall& last = calls->back();
      if (last.kind == call.kind && last.range.end == call.range.start &&
          last.protection == call.protection && last.map_flags == call.map_flags &&
          last.wanted == call.wanted && last.advice == call.advice && last.name == call.name) {
        last.range.end = call.range.end;
        return;
      }
    }
    calls->push_back(std::move(call));
  }

  void remove(PageRange range, const PresentVma& now) {
    if (!is_kernel_own(now.mapping) && may_change(range, now, "be removed")) {
      RestoreCall call;
      call.range = range;
      add(&unmaps_, call);
    }
  }

  void map(PageRange range, const WantedVma& then, bool vacant) {
    const Mapping& mapping = then.mapping;
    RestoreCall call;
    call.range = range;
    call.wanted = static_cast<size_t>(&then - wanted_.data());
    call.protection = protection_of(mapping);
    call.map_flags = MAP_PRIVATE | (vacant ? MAP_FIXED_NOREPLACE : MAP_FIXED);
    const bool special = has_vm_flag(then.flags, "ss") || has_vm_flag(then.flags, "dp");
    if (then.kind == VmaKind::kAnonymous && !has_file(mapping) && !mapping.shared && !special) {
      call.kind = Kind::kMapAnonymous;
      call.map_flags |= MAP_ANONYMOUS | (has_vm_flag(then.flags, "gd") ? MAP_GROWSDOWN : 0);
    } else if (then.kind == VmaKind::kPrivateFile && then.file && !mapping.shared) {
      call.kind = Kind::kMapFile;
      call.offset = mapping.offset + (range.start - mapping.start);
    } else {
      mismatch(describe_range(range, mapping) +
               " is not mapped any more, and it cannot be mapped anew");
      return;
    }
    call.map_flags |= has_vm_flag(then.flags, "nr") ? MAP_NORESERVE : 0;
    // What only the moved break makes room for cannot come before it.
    const PageRange moved{heap_change_.start, heap_change_.end + kPageBytes};
    call.undoable = vacant && (heap_change_.empty() || intersect(range, moved).empty());
    add(call.undoable ? &undoable_ : &maps_, call);
    PresentVma fresh;
    fresh.mapping = mapping;
    fresh.mapping.path.clear();
    fresh.flags = "mr mw me";
    behave(range, fresh, then);
  }

  void adjust(PageRange range, const PresentVma& now, const WantedVma& then) {
    for (const char* flag : {"um", "uw", "ui"}) {
      if (has_vm_flag(now.flags, flag)) {
        mismatch(describe_range(range, now.mapping) + " is watched through a userfaultfd");
        return;
      }
    }
    const int is = protection_of(now.mapping);
    const int was = protection_of(then.mapping);
    if (is != was && may_change(range, now, "be protected anew")) {
      const std::pair<int, const char*> needed[] = {
          {PROT_READ, "mr"}, {PROT_WRITE, "mw"}, {PROT_EXEC, "me"}};
      for (const auto& [bit, flag] : needed) {
        if ((was & ~is & bit) != 0 && !now.flags.empty() && !has_vm_flag(now.flags, flag)) {
          mismatch(describe_range(range, now.mapping) + " cannot be made " +
                   protection_text(then.mapping) + " again");
          return;
        }
      }
      RestoreCall call;
      call.kind = Kind::kProtect;
      call.range = range;
      call.protection = was;
      add(&changes_, call);
    }
    behave(range, now, then);
  }

  // Flags and name.
  void behave(PageRange range, const PresentVma& now, const WantedVma& then) {
    RestoreCall call;
    call.range = range;
    call.optional = true;
    const std::string name = given_name(then.mapping);
    if (!has_file(then.mapping) && name != given_name(now.mapping)) {
      call.kind = Kind::kName;
      call.name = name;
      add(&changes_, call);
      call.name.clear();
    }
    if (now.flags.empty() || then.flags.empty()) {
      return;
    }
    const auto differs = [&](const char* flag) {
      return has_vm_flag(now.flags, flag) != has_vm_flag(then.flags, flag);
    };
    const auto advise = [&](int advice) {
      call.kind = Kind::kAdvise;
      call.advice = advice;
      add(&changes_, call);
      call.advice = 0;
    };
    for (const Advice& advice : kAdvices) {
      if (differs(advice.flag)) {
        advise(has_vm_flag(then.flags, advice.flag) ? advice.set : advice.clear);
      }
    }
    if (differs("sr") || differs("rr")) {
      advise(has_vm_flag(then.flags, "sr")   ? MADV_SEQUENTIAL
             : has_vm_flag(then.flags, "rr") ? MADV_RANDOM
                                             : MADV_NORMAL);
    }
    // There is no advice that takes both back.
    for (const auto& [flag, advice] :
         {std::pair{"hg", MADV_HUGEPAGE}, std::pair{"nh", MADV_NOHUGEPAGE}}) {
      if (differs(flag) && has_vm_flag(then.flags, flag)) {
        advise(advice);
      }
    }
    if (differs("lo")) {
      call.kind = has_vm_flag(then.flags, "lo") ? Kind::kLock : Kind::kUnlock;
      add(&changes_, call);
    }
  }

  const std::vector<PresentVma> present_;
  const std::vector<WantedVma>& wanted_;
  HeapBounds heap_;
  PageRange heap_change_;
  bool heap_grows_ = false;
  PresentVma grown_;
  Calls undoable_;
  Calls before_break_;
  Calls break_;
  Calls unmaps_;
  Calls maps_;
  Calls changes_;
  std::vector<std::string> mismatches_;
};

}  // namespace

const char* restore_call_name(RestoreCall::Kind kind) {
  switch (kind) {
    case Kind::kMapAnonymous:
    case Kind::kMapFile:
      return "mmap";
    case Kind::kUnmap:
      return "munmap";
    case Kind::kBreak:
      return "brk";
    case Kind::kProtect:
      return "mprotect";
    case Kind::kAdvise:
      return "madvise";
    case Kind::kLock:
      return "mlock2";
    case Kind::kUnlock:
      return "munlock";
    case Kind::kName:
      break;
  }
  return "prctl";
}

bool maps_same(const Mapping& a, const Mapping& b) {
  if (a.shared != b.shared || a.inode != b.inode || has_file(a) != has_file(b)) {
    return false;
  }
  if (is_kernel_own(a) || is_kernel_own(b)) {
    return a.path == b.path;
  }
  // Objects of the kernel's internal file systems share inode numbers, so the name counts too.
  return !has_file(a) ||
         (a.dev_major == b.dev_major && a.dev_minor == b.dev_minor &&
          plain_path(a) == plain_path(b) && a.offset - a.start == b.offset - b.start);
}

std::string describe_range(PageRange range, const Mapping& mapping) {
  char text[40];
  snprintf(text, sizeof text, "%lx-%lx", range.start, range.end);
  return mapping.path.empty() ? text : std::string(text) + " " + mapping.path;
}

std::vector<PageRange> without(PageRange range, const std::vector<PageRange>& holes) {
  std::vector<PageRange> parts;
  auto hole =
      std::upper_bound(holes.begin(), holes.end(), range.start,
                       [](uint64_t address, const PageRange& each) { return address < each.end; });
  uint64_t at = range.start;
  for (; hole != holes.end() && hole->start < range.end; ++hole) {
    if (hole->start > at) {
      parts.push_back({at, hole->start});
    }
    at = std::max(at, hole->end);
  }
  if (at < range.end) {
    parts.push_back({at, range.end});
  }
  return parts;
}

RestorePlan plan_restore(const std::vector<PresentVma>& present,
                         const std::vector<WantedVma>& wanted, HeapBounds heap) {
  return Planner(present, wanted, heap).make();
}

std::vector<RestoreCall> plan_anew(const std::vector<WantedVma>& wanted, size_t index) {
  const RestorePlan plan = Planner({}, wanted, {}).anew(index);
  return plan.mismatches.empty() ? plan.calls : std::vector<RestoreCall>{};
}

}  // namespace sluice
