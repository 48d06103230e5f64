// Which calls bring mappings back: single cases word for word, and random address spaces against a
// model that makes the calls.
#include "restore/restore_plan.h"

#include <sys/mman.h>

#include <map>
#include <random>

#include "check.h"

namespace sluice::test {
namespace {

using Kind = RestoreCall::Kind;

constexpr uint64_t kBase = 0x100000;

struct Spec {
  uint64_t first;  // pages from kBase on
  uint64_t pages;
  const char* protection;  // like "rw-p"
  const char* path = "";
  uint64_t inode = 0;
  uint64_t offset_pages = 0;
  const char* flags = "mr mw me";
  VmaKind kind = VmaKind::kAnonymous;
};

Mapping mapping_of(const Spec& spec) {
  Mapping mapping;
  mapping.start = kBase + spec.first * kPageBytes;
  mapping.end = mapping.start + spec.pages * kPageBytes;
  mapping.readable = spec.protection[0] == 'r';
  mapping.writable = spec.protection[1] == 'w';
  mapping.executable = spec.protection[2] == 'x';
  mapping.shared = spec.protection[3] == 's';
  mapping.path = spec.path;
  mapping.inode = spec.inode;
  mapping.offset = spec.offset_pages * kPageBytes;
  return mapping;
}

PresentVma present(const Spec& spec) { return {mapping_of(spec), spec.flags}; }

WantedVma wanted(const Spec& spec) {
  WantedVma vma;
  vma.mapping = mapping_of(spec);
  vma.kind = spec.kind;
  vma.flags = spec.flags;
  if (spec.inode != 0) {
    vma.file = MappedFile{};
    vma.file->path = spec.path;
  }
  return vma;
}

std::string page(uint64_t address) { return std::to_string((address - kBase) / kPageBytes); }

// Like "mmap 3-5 rw-; munmap 7-8".
std::string text_of(const RestorePlan& plan) {
  std::string text;
  for (const std::string& mismatch : plan.mismatches) {
    text += (text.empty() ? "no: " : "; no: ") + mismatch;
  }
  for (const RestoreCall& call : plan.calls) {
    text += text.empty() ? "" : "; ";
    text += std::string(restore_call_name(call.kind)) + " " + page(call.range.start) + "-" +
            page(call.range.end);
    if (call.kind == Kind::kMapAnonymous || call.kind == Kind::kMapFile ||
        call.kind == Kind::kProtect) {
      text += std::string(" ") + ((call.protection & PROT_READ) ? "r" : "-") +
              ((call.protection & PROT_WRITE) ? "w" : "-") +
              ((call.protection & PROT_EXEC) ? "x" : "-");
    }
    if (call.kind == Kind::kMapFile) {
      text += " from " + std::to_string(call.offset / kPageBytes);
    }
    text += call.kind == Kind::kAdvise ? " " + std::to_string(call.advice) : "";
    text += call.kind == Kind::kName ? " '" + call.name + "'" : "";
    text += call.undoable ? " first" : "";
  }
  return text;
}

std::string plan_of(const std::vector<Spec>& now, const std::vector<Spec>& then,
                    HeapBounds heap = {}) {
  std::vector<PresentVma> is;
  std::vector<WantedVma> was;
  for (const Spec& spec : now) {
    is.push_back(present(spec));
  }
  for (const Spec& spec : then) {
    was.push_back(wanted(spec));
  }
  return text_of(plan_restore(is, was, heap));
}

constexpr Spec file(uint64_t first, uint64_t pages, uint64_t offset, const char* protection) {
  return {first, pages, protection, "/f", 7, offset, "mr mw me", VmaKind::kPrivateFile};
}

TEST(restore_plan_of_equal_maps_is_empty) {
  const std::vector<Spec> maps{{0, 4, "rw-p"}, file(4, 2, 0, "r-xp"), {10, 3, "---p"}};
  CHECK_EQ(plan_of(maps, maps), "");
  CHECK_EQ(plan_of({}, {}), "");
}

TEST(restore_plan_unmaps_maps_and_protects) {
  CHECK_EQ(plan_of({{0, 8, "rw-p"}}, {{2, 3, "rw-p"}}), "munmap 0-2; munmap 5-8");
  CHECK_EQ(plan_of({{2, 3, "rw-p"}}, {{0, 8, "rw-p"}}), "mmap 0-2 rw- first; mmap 5-8 rw- first");
  CHECK_EQ(plan_of({{0, 8, "rw-p"}}, {{0, 4, "rw-p"}, {4, 4, "r--p"}}), "mprotect 4-8 r--");
  // What lies beside each other and needs the same is one call.
  CHECK_EQ(plan_of({{0, 2, "rw-p"}, {2, 2, "r-xp"}}, {{0, 4, "---p"}}), "mprotect 0-4 ---");
  CHECK_EQ(plan_of({{0, 2, "rw-p"}, {2, 2, "r--p"}}, {}), "munmap 0-4");
}

TEST(restore_plan_maps_files_from_where_they_were) {
  CHECK_EQ(plan_of({}, {file(4, 4, 10, "r--p")}), "mmap 4-8 r-- from 10 first");
  CHECK_EQ(plan_of({file(4, 2, 10, "r--p")}, {file(4, 4, 10, "r--p")}),
           "mmap 6-8 r-- from 12 first");
  // Another part of the file, another file, and no file at all are replaced.
  CHECK_EQ(plan_of({file(4, 2, 11, "r--p")}, {file(4, 2, 10, "r--p")}), "mmap 4-6 r-- from 10");
  CHECK_EQ(plan_of({{4, 2, "rw-p"}}, {file(4, 2, 10, "r--p")}), "mmap 4-6 r-- from 10");
  CHECK_EQ(plan_of({file(4, 2, 10, "r--p")}, {{4, 2, "rw-p"}}), "mmap 4-6 rw-");
  Spec deleted = file(4, 2, 10, "r--p");
  deleted.path = "/f (deleted)";
  CHECK_EQ(plan_of({deleted}, {file(4, 2, 10, "r--p")}), "");
}

TEST(restore_plan_refuses_what_cannot_be_mapped_anew) {
  const Spec shared{4, 2, "rw-s", "/dev/zero (deleted)", 5, 0, "", VmaKind::kSharedMemory};
  const std::string gone =
      "no: 104000-106000 /dev/zero (deleted) is not mapped any more, and it cannot be mapped anew";
  CHECK_EQ(plan_of({shared}, {shared}), "");
  CHECK_EQ(plan_of({}, {shared}), gone);
  CHECK_EQ(plan_of({{4, 2, "rw-p"}}, {shared}), gone);
  Spec other = shared;
  other.inode = 6;
  CHECK_EQ(plan_of({other}, {shared}), gone);
  CHECK_EQ(plan_of({shared}, {}), "munmap 4-6");
  const Spec device{4, 2, "rw-s", "/dev/fb0", 5, 0, "", VmaKind::kExcluded};
  CHECK_EQ(plan_of({device}, {device}), "");
  CHECK_EQ(plan_of({}, {device}),
           "no: 104000-106000 /dev/fb0 is not as it was, and it is nothing that an image can bring "
           "back");
}

TEST(restore_plan_leaves_the_kernels_mappings_where_they_are) {
  const Spec vdso{4, 2, "r-xp", "[vdso]", 0, 0, "", VmaKind::kVdso};
  const Spec moved{5, 2, "r-xp", "[vdso]", 0, 0, "", VmaKind::kVdso};
  CHECK_EQ(plan_of({vdso}, {vdso}), "");
  CHECK(plan_of({moved}, {vdso}).find("no: 105000-107000 [vdso] was not there") == 0);
  CHECK(plan_of({vdso}, {}).find("no: ") == 0);
  CHECK(plan_of({vdso}, {{4, 2, "rw-p"}}).find("no: ") == 0);
}

TEST(restore_plan_lets_the_stack_shrink_to_what_it_was_and_not_move) {
  const auto stack = [](uint64_t first, uint64_t pages) {
    return Spec{first, pages, "rw-p", "[stack]", 0, 0, "mr mw me gd"};
  };
  CHECK_EQ(plan_of({stack(2, 8)}, {stack(5, 5)}), "munmap 2-5");
  CHECK_EQ(plan_of({stack(5, 5)}, {stack(2, 8)}), "mmap 2-5 rw- first");
  CHECK(plan_of({stack(2, 9)}, {stack(2, 8)}).find("no: the stack is not at") == 0);
}

TEST(restore_plan_moves_the_break) {
  const auto heap = [](uint64_t first, uint64_t pages) {
    return Spec{first, pages, "rw-p", "[heap]"};
  };
  const auto bounds = [](uint64_t start, uint64_t end) {
    return HeapBounds{kBase + start * kPageBytes, kBase + end * kPageBytes};
  };
  CHECK_EQ(plan_of({heap(1, 4)}, {heap(1, 4)}, bounds(1, 5)), "");
  CHECK_EQ(plan_of({heap(1, 4)}, {heap(1, 2)}, bounds(1, 5)), "brk 5-3");
  CHECK_EQ(plan_of({heap(1, 4)}, {}, bounds(1, 5)), "brk 5-1");
  CHECK_EQ(plan_of({heap(1, 2)}, {heap(1, 4)}, bounds(1, 3)), "brk 3-5 first");
  CHECK_EQ(plan_of({}, {heap(1, 4)}, bounds(1, 1)), "brk 1-5 first");
  // The new part is protected as it was, what was unmapped in it goes again.
  CHECK_EQ(plan_of({heap(1, 2)}, {heap(1, 2), {3, 1, "r--p", "[heap]"}, heap(5, 1)}, bounds(1, 3)),
           "brk 3-6 first; munmap 4-5; mprotect 3-4 r--");
  // What stands in the way is removed first, and the room beyond is used only afterwards.
  CHECK_EQ(plan_of({heap(1, 2), {4, 2, "r--p"}}, {heap(1, 4)}, bounds(1, 3)),
           "munmap 4-6; brk 3-5");
  CHECK_EQ(plan_of({heap(1, 4)}, {heap(1, 2), {3, 1, "r--p"}}, bounds(1, 5)),
           "brk 5-3; mmap 3-4 r--");
  CHECK_EQ(plan_of({heap(1, 2), {5, 2, "r--p"}}, {heap(1, 4), {5, 2, "r--p"}}, bounds(1, 3)),
           "no: 105000-106000 is in the way of the heap; brk 3-5 first");
}

TEST(restore_plan_gives_back_flags_and_names) {
  const auto flagged = [](const char* flags, const char* path = "") {
    return Spec{0, 2, "rw-p", path, 0, 0, flags};
  };
  CHECK_EQ(plan_of({flagged("mr mw me dc")}, {flagged("mr mw me wf")}),
           "madvise 0-2 " + std::to_string(MADV_DOFORK) + "; madvise 0-2 " +
               std::to_string(MADV_WIPEONFORK));
  CHECK_EQ(plan_of({flagged("mr mw me")}, {flagged("mr mw me hg lo")}),
           "madvise 0-2 " + std::to_string(MADV_HUGEPAGE) + "; mlock2 0-2");
  CHECK_EQ(plan_of({flagged("mr lo")}, {flagged("mr")}), "munlock 0-2");
  // Nothing is known of them.
  CHECK_EQ(plan_of({flagged("")}, {flagged("mr hg lo")}), "");
  CHECK_EQ(plan_of({flagged("mr")}, {flagged("mr", "[anon:a b]")}), "prctl 0-2 'a b'");
  CHECK_EQ(plan_of({flagged("mr", "[anon:a]")}, {flagged("mr")}), "prctl 0-2 ''");
  // A fresh mapping gets what the old one had.
  CHECK_EQ(plan_of({}, {flagged("mr mw me dd", "[anon:a]")}),
           "mmap 0-2 rw- first; prctl 0-2 'a'; madvise 0-2 " + std::to_string(MADV_DONTDUMP));
}

TEST(restore_plan_refuses_sealed_watched_and_forbidden) {
  const Spec sealed{0, 2, "r--p", "", 0, 0, "mr mw me sl"};
  CHECK_EQ(plan_of({sealed}, {sealed}), "");
  CHECK_EQ(plan_of({sealed}, {}), "no: 100000-102000 is sealed and cannot be removed");
  CHECK_EQ(plan_of({sealed}, {{0, 2, "rw-p"}}),
           "no: 100000-102000 is sealed and cannot be protected anew");
  CHECK_EQ(plan_of({sealed}, {file(0, 2, 0, "r--p")}),
           "no: 100000-102000 is sealed and cannot be replaced");
  const Spec watched{0, 2, "rw-p", "", 0, 0, "mr mw me um"};
  CHECK_EQ(plan_of({watched}, {{0, 2, "rw-p"}}),
           "no: 100000-102000 is watched through a userfaultfd");
  const Spec read_only{0, 2, "r--s", "/f", 7, 0, "mr", VmaKind::kSharedFile};
  Spec writable = read_only;
  writable.protection = "rw-s";
  CHECK_EQ(plan_of({read_only}, {writable}), "no: 100000-102000 /f cannot be made rw- again");
}

TEST(restore_plan_maps_the_whole_of_one_vma_anew) {
  const std::vector<WantedVma> vmas{wanted({0, 4, "rw-p"}), wanted(file(4, 2, 3, "r--p")),
                                    wanted({8, 2, "rw-s", "/m", 5, 0, "", VmaKind::kSharedMemory})};
  CHECK_EQ(text_of({plan_anew(vmas, 0), {}}), "mmap 0-4 rw-");
  CHECK_EQ(text_of({plan_anew(vmas, 1), {}}), "mmap 4-6 r-- from 3");
  CHECK(plan_anew(vmas, 2).empty());
}

TEST(restore_plan_parts_without_holes) {
  const auto parts = [](PageRange range, const std::vector<PageRange>& holes) {
    std::string text;
    for (const PageRange& part : without(range, holes)) {
      text += std::to_string(part.start) + "-" + std::to_string(part.end) + " ";
    }
    return text;
  };
  CHECK_EQ(parts({10, 20}, {}), "10-20 ");
  CHECK_EQ(parts({10, 20}, {{0, 10}, {20, 30}}), "10-20 ");
  CHECK_EQ(parts({10, 20}, {{0, 11}, {12, 13}, {13, 14}, {19, 30}}), "11-12 14-19 ");
  CHECK_EQ(parts({10, 20}, {{5, 25}}), "");
}

// ---- random address spaces: making the calls leads to what was wanted

constexpr uint64_t kPages = 40;
constexpr uint64_t kHeapStart = 8;

// What a page is mapped to, without its flags.
std::string content(const Mapping& mapping, uint64_t address) {
  const bool has_file = mapping.inode != 0;
  return protection_text(mapping) + (mapping.shared ? "s" : "p") + std::to_string(mapping.inode) +
         ":" + std::to_string(has_file ? mapping.offset + (address - mapping.start) : 0);
}

using Model = std::map<uint64_t, std::string>;

template <typename Vma>
Model model_of(const std::vector<Vma>& vmas) {
  Model model;
  for (const Vma& vma : vmas) {
    for (uint64_t at = vma.mapping.start; at < vma.mapping.end; at += kPageBytes) {
      model[at] = content(vma.mapping, at);
    }
  }
  return model;
}

Spec random_spec(std::mt19937* random, uint64_t first, uint64_t pages) {
  static constexpr const char* kProtections[] = {"rw-p", "r--p", "---p", "r-xp"};
  const char* protection = kProtections[(*random)() % 4];
  if ((*random)() % 3 == 0) {
    return file(first, pages, (*random)() % 3 == 0 ? first : (*random)() % 5, protection);
  }
  return {first, pages, protection};
}

// Ascending, with a heap from kHeapStart to `heap_end`.
std::vector<Spec> random_specs(std::mt19937* random, uint64_t heap_end) {
  std::vector<Spec> specs;
  for (uint64_t at = 0; at < kPages;) {
    if (at >= kHeapStart && at < heap_end) {
      specs.push_back({kHeapStart, heap_end - kHeapStart, "rw-p", "[heap]"});
      at = heap_end;
      continue;
    }
    const uint64_t limit = at < kHeapStart ? kHeapStart : kPages;
    const uint64_t pages = std::min<uint64_t>(1 + (*random)() % 6, limit - at);
    if ((*random)() % 3 != 0) {
      specs.push_back(random_spec(random, at, pages));
    }
    at += pages;
  }
  return specs;
}

// Makes a call in the model; fails where the kernel would.
void perform(const RestoreCall& call, const std::vector<WantedVma>& vmas, Model* model) {
  Mapping fresh;
  fresh.readable = (call.protection & PROT_READ) != 0;
  fresh.writable = (call.protection & PROT_WRITE) != 0;
  fresh.executable = (call.protection & PROT_EXEC) != 0;
  fresh.start = call.range.start;
  PageRange range = call.range;
  switch (call.kind) {
    case Kind::kBreak:
      fresh.readable = fresh.writable = true;
      if (range.end < range.start) {
        std::swap(range.start, range.end);
        model->erase(model->lower_bound(range.start), model->lower_bound(range.end));
        return;
      }
      CHECK(model->lower_bound(range.start) == model->lower_bound(range.end + kPageBytes));
      break;
    case Kind::kMapFile:
      fresh.inode = vmas.at(call.wanted).mapping.inode;
      fresh.offset = call.offset;
      break;
    case Kind::kMapAnonymous:
    case Kind::kProtect:
      break;
    case Kind::kUnmap:
      model->erase(model->lower_bound(range.start), model->lower_bound(range.end));
      return;
    default:
      return;
  }
  for (uint64_t at = range.start; at < range.end; at += kPageBytes) {
    if (call.kind == Kind::kProtect) {
      std::string& page_content = model->at(at);
      page_content = protection_text(fresh) + page_content.substr(3);
      continue;
    }
    if ((call.map_flags & MAP_FIXED_NOREPLACE) != 0) {
      CHECK(!model->contains(at));
    }
    (*model)[at] = content(fresh, at);
  }
}

TEST(restore_plan_of_random_maps_leads_to_what_was_wanted) {
  int made = 0;
  for (unsigned seed = 0; seed < 20000; ++seed) {
    std::mt19937 random(seed);
    const uint64_t heap_now = kHeapStart + random() % 10;
    const uint64_t heap_then = kHeapStart + random() % 10;
    std::vector<PresentVma> now;
    std::vector<WantedVma> then;
    for (const Spec& spec : random_specs(&random, heap_now)) {
      now.push_back(present(spec));
    }
    for (const Spec& spec : random_specs(&random, heap_then)) {
      then.push_back(wanted(spec));
    }
    const RestorePlan plan =
        plan_restore(now, then, {kBase + kHeapStart * kPageBytes, kBase + heap_now * kPageBytes});
    if (!plan.mismatches.empty()) {
      continue;
    }
    ++made;
    Model model = model_of(now);
    bool undoable = true;
    for (const RestoreCall& call : plan.calls) {
      CHECK(undoable || !call.undoable);
      undoable = call.undoable;
      if (call.undoable && call.kind != Kind::kBreak) {
        // Nothing of the process is under it.
        CHECK(model.lower_bound(call.range.start) == model.lower_bound(call.range.end));
      }
      perform(call, then, &model);
    }
    if (model != model_of(then)) {
      throw Failure{__FILE__, __LINE__, "seed " + std::to_string(seed) + ": " + text_of(plan)};
    }
    // And then nothing is left to be done.
    std::vector<PresentVma> after;
    for (const WantedVma& vma : then) {
      after.push_back({vma.mapping, vma.flags});
    }
    CHECK(
        plan_restore(after, then, {kBase + kHeapStart * kPageBytes, kBase + heap_then * kPageBytes})
            .calls.empty());
  }
  CHECK(made > 5000);
}

}  // namespace
}  // namespace sluice::test
