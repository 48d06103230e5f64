#include "pages/capture_plan.h"

#include <algorithm>
#include <map>

namespace sluice {
namespace {

constexpr char kNoLook[] = "the file behind it cannot be looked at with this caller's permissions";

bool starts_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

uint64_t round_up(uint64_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

// A range of one shared object that an earlier mapping contributes; by its start in the file.
struct Claim {
  uint64_t end;
  uint64_t address;  // of the start, in the target
};
using Claims = std::map<uint64_t, Claim>;

// Shared anonymous, System V and hugetlb objects live on internal mounts that number their inodes
// independently, so the name is part of the identity.
using ObjectKey = std::pair<std::pair<uint64_t, uint64_t>, std::string>;

class PlanMaker {
 public:
  PlanMaker(pid_t pid, MappedFiles* files, Ask ask, CapturePlan* plan)
      : pid_(pid), files_(files), ask_(ask), plan_(plan) {}

  void add(const Mapping& mapping) {
    PlannedVma vma;
    if (has_file(mapping)) {
      const LookUp& known = files_->look_up(mapping, ask_);
      vma = classify(mapping, known.file);
      if (known.unasked) {
        note_unasked(&vma);
      }
    } else {
      vma = classify(mapping, {});
    }
    switch (vma.kind) {
      case VmaKind::kAnonymous:
      case VmaKind::kPrivateFile:
        add_item({mapping.start, mapping.end},
                 vma.kind == VmaKind::kAnonymous ? PageFilter::kAnonymous : PageFilter::kOwn,
                 mapping);
        plan_->items.back().trackable = true;
        break;
      case VmaKind::kSharedFile:
        // A page written through the mapping is newer than the file's times can tell.
        if (mapping.writable) {
          add_item({mapping.start, mapping.end}, PageFilter::kPresent, mapping);
        }
        break;
      case VmaKind::kSharedMemory:
        add_shared_memory(vma);
        break;
      case VmaKind::kDeletedFile:
        add_deleted_file(vma);
        break;
      case VmaKind::kVdso:
        add_item({mapping.start, mapping.end}, std::nullopt, mapping);
        plan_->items.back().constant = true;
        break;
      case VmaKind::kExcluded:
        break;
    }
    plan_->vmas.push_back(std::move(vma));
  }

 private:
  void add_item(PageRange range, std::optional<PageFilter> filter, const Mapping& mapping) {
    if (!range.empty()) {
      plan_->items.push_back({range, filter, !mapping.readable});
    }
  }

  // It is as if the caller might not look at it.
  void note_unasked(PlannedVma* vma) {
    constexpr char kWhy[] =
        "it was first seen under the freeze, in which its file system may not be asked, for that "
        "may "
        "never answer";
    const bool excluded = vma->kind == VmaKind::kExcluded;
    if (excluded && vma->left_out == kNoLook) {
      vma->left_out = kWhy;
    }
    if (vma->left_out.empty() || vma->left_out == kWhy) {
      plan_->warnings.push_back(
          "mapped file " + vma->mapping.path + ": " + kWhy +
          (excluded ? "; it is left out" : "; only pages that were changed were taken"));
    }
  }

  void add_deleted_file(const PlannedVma& vma) {
    const Mapping& mapping = vma.mapping;
    const uint64_t file_end = round_up(vma.file ? vma.file->bytes : 0);
    const uint64_t in_file = file_end > mapping.offset ? file_end - mapping.offset : 0;
    const uint64_t end = std::min(mapping.end, mapping.start + in_file);
    const auto found = files_->data_of(mapping, end - mapping.start, ask_);
    const auto data = found.value_or(
        std::vector<PageRange>{{mapping.offset, mapping.offset + (end - mapping.start)}});
    if (!mapping.shared || files_->withholds(mapping, ask_)) {
      // What is there by now where there was nothing when its file system was asked last.
      add_around_data(mapping, data, mapping.shared ? PageFilter::kPresent : PageFilter::kOwn);
      return;
    }
    for (const PageRange& range : data) {
      add_item({mapping.start + (range.start - mapping.offset),
                mapping.start + (range.end - mapping.offset)},
               std::nullopt, mapping);
    }
  }

  // All data of the object, not only what this process has in its page table: other processes
  // write to it too. A private mapping has pages of its own on top of that.
  void add_shared_memory(const PlannedVma& vma) {
    const Mapping& mapping = vma.mapping;
    const ScopedFd fd = files_->open(mapping);
    if (!fd) {
      plan_->warnings.push_back(
          "shared memory " + mapping.path +
          ": only the pages that this process has mapped were taken; to see all of it the "
          "dumper needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN");
      add_present(mapping);
      return;
    }
    if (vma.file && vma.file->huge_pages) {
      add_huge(mapping, fd.get());
      return;
    }
    const auto data = vma.file ? data_ranges(fd.get(), mapping.offset, mapping.end - mapping.start)
                               : std::nullopt;
    if (!data) {
      add_present(mapping);
      return;
    }
    if (!mapping.shared) {
      add_around_data(mapping, *data, PageFilter::kOwn);
      return;
    }
    const ObjectKey key{{(uint64_t{mapping.dev_major} << 32) | mapping.dev_minor, mapping.inode},
                        mapping.path};
    for (const PageRange& range : *data) {
      claim(&claims_[key], range, mapping);
    }
  }

  void add_present(const Mapping& mapping) {
    if (mapping.shared) {
      append_range(&plan_->incomplete, {mapping.start, mapping.end});
    }
    add_item({mapping.start, mapping.end}, PageFilter::kPresent, mapping);
  }

  // What others wrote to it need not be in the page table of this process.
  void add_huge(const Mapping& mapping, int fd) {
    const auto in_file = [&](uint64_t address) {
      return mapping.offset + (address - mapping.start);
    };
    std::vector<PageRange> present;
    PageScan::open(pid_)->scan({mapping.start, mapping.end}, PageFilter::kPresent,
                               [&](PageRange run) {
                                 append_range(&present, {in_file(run.start), in_file(run.end)});
                                 return true;
                               });
    const auto missing =
        huge_data(fd, mapping.offset, mapping.end - mapping.start, present, mapping.shared);
    if (!missing) {
      plan_->warnings.push_back("shared memory " + mapping.path +
                                ": only the pages that this process has mapped were taken, for it "
                                "could not be read as a whole");
      add_present(mapping);
      return;
    }
    add_around_data(mapping, *missing, PageFilter::kPresent);
  }

  // Data of the object wherever it is, and such pages elsewhere.
  void add_around_data(const Mapping& mapping, const std::vector<PageRange>& data,
                       PageFilter elsewhere) {
    uint64_t at = mapping.start;
    for (const PageRange& range : data) {
      const uint64_t start = mapping.start + (range.start - mapping.offset);
      const uint64_t end = mapping.start + (range.end - mapping.offset);
      add_item({at, start}, elsewhere, mapping);
      add_item({start, end}, std::nullopt, mapping);
      at = end;
    }
    add_item({at, mapping.end}, elsewhere, mapping);
  }

  // Splits `range` of the object into parts that were captured before (aliases) and new ones.
  void claim(Claims* claims, PageRange range, const Mapping& mapping) {
    const auto address_of = [&](uint64_t file_offset) {
      return mapping.start + (file_offset - mapping.offset);
    };
    for (uint64_t at = range.start; at < range.end;) {
      const auto later = claims->upper_bound(at);
      if (later != claims->begin() && at < std::prev(later)->second.end) {
        const auto& [start, owner] = *std::prev(later);
        const uint64_t end = std::min(range.end, owner.end);
        plan_->aliases.push_back(
            {address_of(at), owner.address + (at - start), (end - at) / kPageBytes});
        at = end;
      } else {
        const uint64_t end = later == claims->end() ? range.end : std::min(range.end, later->first);
        add_item({address_of(at), address_of(end)}, std::nullopt, mapping);
        claims->emplace(at, Claim{end, address_of(at)});
        at = end;
      }
    }
  }

  pid_t pid_;
  MappedFiles* files_;
  Ask ask_;
  CapturePlan* plan_;
  std::map<ObjectKey, Claims> claims_;
};

}  // namespace

const char* vma_kind_name(VmaKind kind) {
  switch (kind) {
    case VmaKind::kAnonymous:
      return "anonymous";
    case VmaKind::kPrivateFile:
      return "private-file";
    case VmaKind::kSharedFile:
      return "shared-file";
    case VmaKind::kSharedMemory:
      return "shared-memory";
    case VmaKind::kDeletedFile:
      return "deleted-file";
    case VmaKind::kVdso:
      return "vdso";
    case VmaKind::kExcluded:
      break;
  }
  return "excluded";
}

PlannedVma classify(const Mapping& mapping, const std::optional<MappedFile>& file) {
  PlannedVma vma;
  vma.mapping = mapping;
  vma.file = file;
  const auto exclude = [&](const char* why) {
    vma.kind = VmaKind::kExcluded;
    vma.left_out = why;
    return vma;
  };
  const std::string& path = mapping.path;
  if (path == "[vdso]") {
    vma.kind = VmaKind::kVdso;
  } else if (starts_with(path, "[vvar") || path == "[vsyscall]" || path == "[uprobes]") {
    return exclude("belongs to the kernel, which provides it anew");
  } else if (starts_with(path, "/secretmem")) {
    return exclude("memfd_secret: the kernel lets nobody else read it");
  } else if (starts_with(path, "anon_inode:")) {
    return exclude("shared with a kernel object");
  } else if (!has_file(mapping)) {
    vma.kind = VmaKind::kAnonymous;
  } else if (!file) {
    // Behind it may be a device, whose registers are not to be touched.
    if (mapping.shared) {
      return exclude(kNoLook);
    }
    vma.kind = VmaKind::kPrivateFile;
  } else if (file->zero_device && !mapping.shared) {
    vma.kind = VmaKind::kAnonymous;
  } else if (file->character_device) {
    return exclude("device memory");
  } else if (file->memory_backed) {
    vma.kind = VmaKind::kSharedMemory;
  } else if (!file->reachable) {
    vma.kind = VmaKind::kDeletedFile;
  } else {
    vma.kind = mapping.shared ? VmaKind::kSharedFile : VmaKind::kPrivateFile;
  }
  return vma;
}

CapturePlan make_plan(pid_t pid, MappedFiles* files, const std::vector<uint64_t>& ignored,
                      Ask ask) {
  CapturePlan plan;
  PlanMaker maker(pid, files, ask, &plan);
  for (const Mapping& mapping : read_maps(pid)) {
    if (std::find(ignored.begin(), ignored.end(), mapping.start) == ignored.end()) {
      maker.add(mapping);
    }
  }
  return plan;
}

PageRanges mappings_of(const CapturePlan& plan) {
  PageRanges mappings;
  mappings.reserve(plan.vmas.size());
  for (const PlannedVma& vma : plan.vmas) {
    mappings.push_back({vma.mapping.start, vma.mapping.end});
  }
  return mappings;
}

}  // namespace sluice
