// What each mapping contributes: the table of kinds, a child with mappings of all kinds, and
// shared memory mapped many times over against a naive list of its pages.
#include "pages/capture_plan.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "child.h"
#include "tools.h"

namespace sluice::test {
namespace {

struct Case {
  const char* path;
  bool shared;
  std::optional<MappedFile> file;
  VmaKind kind;
};

MappedFile a_file(bool reachable, bool memory_backed = false, bool device = false,
                  bool zero = false) {
  MappedFile file;
  file.reachable = reachable;
  file.memory_backed = memory_backed;
  file.character_device = device;
  file.zero_device = zero;
  return file;
}

VmaKind kind_at(const CapturePlan& plan, const void* address) {
  for (const PlannedVma& vma : plan.vmas) {
    if (vma.mapping.start == reinterpret_cast<uint64_t>(address)) {
      return vma.kind;
    }
  }
  throw Failure{__FILE__, __LINE__, "a mapping is not in the plan"};
}

std::string items_at(const CapturePlan& plan, const void* address, uint64_t pages) {
  const auto start = reinterpret_cast<uint64_t>(address);
  std::string text;
  for (const CaptureItem& item : plan.items) {
    const PageRange part = intersect(item.range, {start, start + pages * kPageBytes});
    if (!part.empty()) {
      text += std::to_string((part.start - start) / kPageBytes) + "+" +
              std::to_string(part.pages()) +
              (!item.filter                             ? " all"
               : *item.filter == PageFilter::kOwn       ? " own"
               : *item.filter == PageFilter::kAnonymous ? " anonymous"
                                                        : " present") +
              (item.forced ? " forced;" : ";");
    }
  }
  return text;
}

void* map(uint64_t pages, int protection, int flags, int fd = -1, uint64_t page = 0) {
  void* at = ::mmap(nullptr, pages * kPageBytes, protection, flags, fd,
                    static_cast<off_t>(page * kPageBytes));
  CHECK(at != MAP_FAILED);
  return at;
}

constexpr int kReadWrite = PROT_READ | PROT_WRITE;

}  // namespace

TEST(capture_plan_kinds) {
  using enum VmaKind;
  const Case cases[] = {
      {"", false, {}, kAnonymous},
      {"[heap]", false, {}, kAnonymous},
      {"[stack]", false, {}, kAnonymous},
      {"[anon:name]", false, {}, kAnonymous},
      {"[vdso]", false, {}, kVdso},
      {"[vvar]", false, {}, kExcluded},
      {"[vvar_vclock]", false, {}, kExcluded},
      {"[vsyscall]", false, {}, kExcluded},
      {"[uprobes]", false, {}, kExcluded},
      {"/secretmem (deleted)", true, a_file(false, true), kExcluded},
      {"anon_inode:[io_uring]", true, a_file(false), kExcluded},
      {"/a/file", false, a_file(true), kPrivateFile},
      {"/a/file", true, a_file(true), kSharedFile},
      {"/a/file (deleted)", false, a_file(false), kDeletedFile},
      {"/a/file (deleted)", true, a_file(false), kDeletedFile},
      {"/a/file", false, {}, kPrivateFile},
      {"/a/file", true, {}, kExcluded},
      {"/memfd:x (deleted)", true, a_file(false, true), kSharedMemory},
      {"/memfd:x (deleted)", false, a_file(false, true), kSharedMemory},
      {"/SYSV00000000 (deleted)", true, a_file(false, true), kSharedMemory},
      {"/dev/zero", false, a_file(true, false, true, true), kAnonymous},
      {"/dev/zero", true, a_file(true, false, true, true), kExcluded},
      {"/dev/card", true, a_file(true, false, true), kExcluded},
      {"/dev/card", false, a_file(true, false, true), kExcluded},
  };
  for (const Case& one : cases) {
    Mapping mapping;
    mapping.path = one.path;
    mapping.shared = one.shared;
    mapping.dev_minor = one.path[0] == '/' || one.path[0] == 'a' ? 1 : 0;
    mapping.inode = std::string(one.path).starts_with("/SYSV") ? 0 : mapping.dev_minor;
    const PlannedVma vma = classify(mapping, one.file);
    CHECK_EQ(std::string(one.path) + " " + vma_kind_name(vma.kind),
             std::string(one.path) + " " + vma_kind_name(one.kind));
    CHECK_EQ(vma.left_out.empty(), one.kind != kExcluded);
  }
}

TEST(capture_plan_of_the_first_system_v_segment) {
  const Shared<std::atomic<void*>> at;
  const Child child([&] {
    if (::unshare(CLONE_NEWIPC) != 0) {
      return;
    }
    const int id = ::shmget(IPC_PRIVATE, 4 * kPageBytes, IPC_CREAT | 0600);
    char* const memory = static_cast<char*>(::shmat(id, nullptr, 0));
    memory[kPageBytes] = 1;
    ::shmctl(id, IPC_RMID, nullptr);
    *at = memory;
  });
  if (*at == nullptr) {
    SKIP("no IPC namespace of its own without CAP_SYS_ADMIN");
  }
  MappedFiles files(child.pid());
  const auto start = reinterpret_cast<uint64_t>(at->load());
  const CapturePlan plan = make_plan(child.pid(), &files, {}, Ask::kYes);
  const auto vma = std::find_if(plan.vmas.begin(), plan.vmas.end(), [&](const PlannedVma& each) {
    return each.mapping.start == start;
  });
  CHECK(vma != plan.vmas.end());
  CHECK_EQ(vma->mapping.inode, uint64_t{0});
  CHECK(vma->kind == VmaKind::kSharedMemory);
  uint64_t pages = 0;
  for (const CaptureItem& item : plan.items) {
    pages += intersect(item.range, {start, vma->mapping.end}).empty() ? 0 : item.range.pages();
  }
  CHECK_EQ(pages, uint64_t{1});
}

TEST(capture_plan_of_a_child) {
  using enum VmaKind;
  const TempDir dir("/tmp");
  const auto open_new = [&](const char* name) {
    const std::string path = dir.path() + "/" + name;
    std::ofstream(path) << std::string(3 * kPageBytes - 10, 'f');
    return ScopedFd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  };
  const ScopedFd named = open_new("named");
  const ScopedFd deleted = open_new("deleted");
  CHECK(::unlink((dir.path() + "/deleted").c_str()) == 0);
  const ScopedFd memfd(::memfd_create("sluice-test", MFD_CLOEXEC));
  CHECK(::ftruncate(memfd.get(), 8 * kPageBytes) == 0);
  CHECK(::pwrite(memfd.get(), "x", 1, 2 * kPageBytes) == 1);
  CHECK(::pwrite(memfd.get(), "x", 1, 3 * kPageBytes) == 1);
  const ScopedFd zero(::open("/dev/zero", O_RDWR | O_CLOEXEC));
  struct Places {
    void* at[9];
  };
  const Shared<Places> places;
  const Child child([&] {
    void** at = places->at;
    at[0] = map(4, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS);
    at[1] = map(4, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
    at[2] = map(4, kReadWrite, MAP_PRIVATE, named.get());
    at[3] = map(4, kReadWrite, MAP_SHARED, named.get());
    at[4] = map(4, PROT_READ, MAP_SHARED, named.get());
    at[5] = map(4, kReadWrite, MAP_PRIVATE, deleted.get());
    at[6] = map(8, kReadWrite, MAP_SHARED, memfd.get());
    at[7] = map(8, kReadWrite, MAP_PRIVATE, memfd.get());
    at[8] = map(4, kReadWrite, MAP_PRIVATE, zero.get());
  });
  MappedFiles files(child.pid());
  const CapturePlan plan = make_plan(child.pid(), &files, {}, Ask::kYes);
  const std::tuple<int, VmaKind, uint64_t, const char*> expected[] = {
      {1, kAnonymous, 4, "0+4 anonymous forced;"},
      {2, kPrivateFile, 4, "0+4 own;"},
      {3, kSharedFile, 4, "0+4 present;"},
      {4, kSharedFile, 4, ""},
      {5, kDeletedFile, 4, "0+3 all;3+1 own;"},
      {6, kSharedMemory, 8, "2+2 all;"},
      {7, kSharedMemory, 8, "0+2 own;2+2 all;4+4 own;"},
      {8, kAnonymous, 4, "0+4 anonymous;"},
  };
  for (const auto& [index, kind, pages, items] : expected) {
    const std::string name = std::to_string(index) + " ";
    CHECK_EQ(name + vma_kind_name(kind_at(plan, places->at[index])), name + vma_kind_name(kind));
    CHECK_EQ(name + items_at(plan, places->at[index], pages), name + items);
  }
  CHECK_EQ(items_at(plan, places->at[0], 4), "0+4 anonymous;");  // possibly joined to a neighbour
  const auto ascending = [](const CaptureItem& a, const CaptureItem& b) {
    return a.range.end <= b.range.start;
  };
  for (size_t i = 1; i < plan.items.size(); ++i) {
    CHECK(ascending(plan.items[i - 1], plan.items[i]));
  }
  // Without what is not the target's.
  const auto ignored = reinterpret_cast<uint64_t>(places->at[6]);
  const CapturePlan without = make_plan(child.pid(), &files, {ignored}, Ask::kYes);
  CHECK_EQ(without.vmas.size() + 1, plan.vmas.size());
  CHECK_EQ(items_at(without, places->at[6], 8), "");
}

TEST(capture_plan_shared_memory_mapped_many_times) {
  constexpr uint64_t kPages = 6000;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Random random(seed);
    const ScopedFd memfd(::memfd_create("sluice-test", MFD_CLOEXEC));
    CHECK(::ftruncate(memfd.get(), kPages * kPageBytes) == 0);
    std::set<uint64_t> data;
    for (uint64_t page = 0; page < kPages; ++page) {
      if (below(random, 2) == 0) {
        CHECK(::pwrite(memfd.get(), "x", 1, static_cast<off_t>(page * kPageBytes)) == 1);
        data.insert(page);
      }
    }
    const Child child([&] {
      map(kPages, kReadWrite, MAP_SHARED, memfd.get());
      for (int i = 0; i < 8; ++i) {
        const uint64_t first = below(random, kPages);
        map(1 + below(random, kPages - first), PROT_READ, MAP_SHARED, memfd.get(), first);
      }
    });
    MappedFiles files(child.pid());
    const CapturePlan plan = make_plan(child.pid(), &files, {}, Ask::kYes);
    std::map<uint64_t, uint64_t> page_at;  // by address, of the object's data
    for (const PlannedVma& vma : plan.vmas) {
      if (vma.mapping.path.rfind("/memfd:sluice-test", 0) != 0) {
        continue;
      }
      for (uint64_t at = vma.mapping.start; at < vma.mapping.end; at += kPageBytes) {
        const uint64_t page = (vma.mapping.offset + (at - vma.mapping.start)) / kPageBytes;
        if (data.contains(page)) {
          page_at[at] = page;
        }
      }
    }
    CHECK(page_at.size() > data.size());
    std::map<uint64_t, uint64_t> captured;  // address of each page
    for (const CaptureItem& item : plan.items) {
      for (uint64_t at = item.range.start; at < item.range.end && !item.filter; at += kPageBytes) {
        const auto found = page_at.find(at);
        if (found != page_at.end()) {
          CHECK(captured.emplace(found->second, at).second);
          page_at.erase(found);
        }
      }
    }
    CHECK_EQ(captured.size(), data.size());
    for (const Alias& alias : plan.aliases) {
      for (uint64_t i = 0; i < alias.pages; ++i) {
        const auto found = page_at.find(alias.address + i * kPageBytes);
        if (found != page_at.end()) {
          CHECK_EQ(alias.source + i * kPageBytes, captured.at(found->second));
          page_at.erase(found);
        }
      }
    }
    CHECK(page_at.empty());
  }
}

}  // namespace sluice::test
