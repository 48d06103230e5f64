// The plan of a restore, of mappings that a hostile target has and a hostile image claims. It names
// only whole pages that either has, keeps what can be undone first, and leads to what was wanted.
#include "restore/restore_plan.h"

#include <sys/mman.h>

#include <map>

#include "input.h"

namespace sluice::fuzz {
namespace {

using Kind = RestoreCall::Kind;

constexpr uint64_t kPages = 48;
constexpr uint64_t kHeapStart = 8;

constexpr const char* kPaths[] = {
    "",           "/f",       "/g (deleted)", "[stack]", "[vdso]",    "[vvar]",
    "[vsyscall]", "[anon:a]", "[anon:",       "[heap]",  "/dev/zero", "[",
};
constexpr const char* kFlags[] = {"",      "mr mw me", "mr mw me dc lo", "mr sl", "mr um",
                                  "mr hg", "gd",       "mr mw ss",       "sr dd", " "};

template <size_t N>
const char* one_of(Input* input, const char* const (&all)[N]) {
  return all[input->below(N)];
}

Mapping some_mapping(Input* input, uint64_t base, uint64_t page, uint64_t pages) {
  Mapping mapping;
  mapping.start = base + page * kPageBytes;
  mapping.end = mapping.start + pages * kPageBytes;
  const uint64_t bits = input->below(64);
  mapping.readable = (bits & 1) != 0;
  mapping.writable = (bits & 2) != 0;
  mapping.executable = (bits & 4) != 0;
  mapping.shared = (bits & 24) == 24;
  mapping.inode = (bits & 32) != 0 ? 1 + input->below(3) : 0;
  mapping.dev_minor = static_cast<unsigned>(mapping.inode);
  mapping.offset = input->below(4) * kPageBytes;
  mapping.path = one_of(input, kPaths);
  return mapping;
}

template <typename Add>
void some_vmas(Input* input, uint64_t base, Add add) {
  for (uint64_t page = input->below(4); page < kPages && !input->empty();) {
    const uint64_t pages = std::min(kPages - page, 1 + input->below(8));
    add(some_mapping(input, base, page, pages));
    page += pages + input->below(4) / 2;
  }
}

// What a page is, but for names and flags.
using Model = std::map<uint64_t, std::string>;

std::string content(const Mapping& mapping, uint64_t at) {
  const uint64_t offset = mapping.inode == 0 ? 0 : mapping.offset + (at - mapping.start);
  return protection_text(mapping) + std::to_string(mapping.inode) + ":" + std::to_string(offset);
}

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

void make(const RestoreCall& call, const std::vector<WantedVma>& wanted, Model* model) {
  Mapping fresh;
  fresh.readable = (call.protection & PROT_READ) != 0;
  fresh.writable = (call.protection & PROT_WRITE) != 0;
  fresh.executable = (call.protection & PROT_EXEC) != 0;
  PageRange range = call.range;
  switch (call.kind) {
    case Kind::kBreak: {
      const bool grows = range.end > range.start;
      fresh.readable = fresh.writable = true;
      if (!grows) {
        std::swap(range.start, range.end);
        model->erase(model->lower_bound(range.start), model->lower_bound(range.end));
        return;
      }
      break;
    }
    case Kind::kUnmap:
      model->erase(model->lower_bound(range.start), model->lower_bound(range.end));
      return;
    case Kind::kMapFile:
      fresh.inode = wanted.at(call.wanted).mapping.inode;
      fresh.offset = call.offset;
      fresh.start = range.start;
      break;
    case Kind::kMapAnonymous:
    case Kind::kProtect:
      break;
    default:
      return;
  }
  for (uint64_t at = range.start; at < range.end; at += kPageBytes) {
    if (call.kind == Kind::kProtect) {
      REQUIRE(model->contains(at));
      (*model)[at] = protection_text(fresh) + (*model)[at].substr(3);
      continue;
    }
    REQUIRE((call.map_flags & MAP_FIXED_NOREPLACE) == 0 || !model->contains(at));
    (*model)[at] = content(fresh, at);
  }
}

bool is_heap(const Mapping& mapping) { return mapping.path == "[heap]"; }

}  // namespace

void run(Input input) {
  // Up to the end of all addresses, where an image may claim something too.
  const uint64_t base = input.flag() ? 0x100000 : ~uint64_t{0} - (kPages + 1) * kPageBytes + 1;
  std::vector<PresentVma> present;
  std::vector<WantedVma> wanted;
  some_vmas(&input, base, [&](Mapping mapping) {
    present.push_back({std::move(mapping), one_of(&input, kFlags)});
  });
  some_vmas(&input, base, [&](Mapping mapping) {
    WantedVma vma{
        std::move(mapping), static_cast<VmaKind>(input.below(7)), one_of(&input, kFlags), {}};
    if (vma.mapping.inode != 0 && input.flag()) {
      vma.file = MappedFile{};
    }
    wanted.push_back(std::move(vma));
  });
  const uint64_t heap = base + kHeapStart * kPageBytes;
  const RestorePlan plan = plan_restore(present, wanted, {heap, heap + input.below(8) * 1000});
  bool undoable = true;
  for (const RestoreCall& call : plan.calls) {
    REQUIRE(undoable || !call.undoable);
    undoable = call.undoable;
    REQUIRE(call.kind == Kind::kBreak || call.range.start < call.range.end);
    REQUIRE(call.kind == Kind::kBreak || call.range.start >= base);
    REQUIRE(call.kind != Kind::kMapFile || call.wanted < wanted.size());
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    plan_anew(wanted, i);
  }
  // The kernel has one heap, in one place; the rest of such plans is refused when it is compared.
  const bool has_heap = std::any_of(present.begin(), present.end(),
                                    [](const auto& vma) { return is_heap(vma.mapping); }) ||
                        std::any_of(wanted.begin(), wanted.end(),
                                    [](const auto& vma) { return is_heap(vma.mapping); });
  if (!plan.mismatches.empty() || has_heap) {
    return;
  }
  Model model = model_of(present);
  for (const RestoreCall& call : plan.calls) {
    make(call, wanted, &model);
  }
  const Model end = model_of(wanted);
  for (const auto& [at, what] : end) {
    const auto is = model.find(at);
    REQUIRE(is != model.end());
    // What no call can bring back, like a device, is the same as before in all that is compared.
    REQUIRE(is->second == what || is->second.substr(0, 4) == what.substr(0, 4));
  }
}

}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  sluice::fuzz::run({data, bytes});
  return 0;
}
