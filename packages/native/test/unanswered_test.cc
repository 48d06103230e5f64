// Files of a file system that does not answer: no freeze waits for it.
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "child.h"
#include "fuse_server.h"
#include "pages/capture_plan.h"
#include "restore/restore_checks.h"
#include "session_rig.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr uint64_t kBytes = FuseServer::kFilePages * kPageBytes;

// Maps files of the server, some at first and some when it is told to; no descriptor stays open.
class Target {
 public:
  enum Order { kNone, kMap, kUnmap, kDone };

  explicit Target(const FuseServer& server)
      : child_(
            [&] {
              at_->known = map(server.file('a'), MAP_PRIVATE);
              at_->removed = map(server.file('b'), MAP_SHARED);
              ::unlink(server.file('b').c_str());
            },
            [&] {
              for (;;) {
                if (at_->order == kMap) {
                  at_->own = map(server.file('c'), MAP_PRIVATE);
                  at_->own.load()[kPageBytes] = 'x';
                  at_->shared = map(server.file('d'), MAP_SHARED);
                  at_->order = kDone;
                } else if (at_->order == kUnmap) {
                  ::munmap(at_->known, kBytes);
                  at_->order = kDone;
                }
                ::usleep(1000);
              }
              return 0;
            }) {}

  pid_t pid() const { return child_.pid(); }
  void order(Order order) {
    at_->order = order;
    wait_until("the target has obeyed", [&] { return at_->order == kDone; });
  }
  struct At {
    std::atomic<int> order;
    std::atomic<char*> known;
    std::atomic<char*> removed;
    std::atomic<char*> own;
    std::atomic<char*> shared;
  };
  const At& at() const { return *at_; }

 private:
  // Read as a whole, so that the kernel has all of it.
  static char* map(const std::string& path, int sharing) {
    const ScopedFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    auto* const at = static_cast<char*>(
        ::mmap(nullptr, kBytes, PROT_READ | (sharing == MAP_PRIVATE ? PROT_WRITE : 0), sharing,
               fd.get(), 0));
    CHECK(at != MAP_FAILED);
    for (uint64_t page = 0; page < FuseServer::kFilePages; ++page) {
      (void)*static_cast<volatile char*>(at + page * kPageBytes);
    }
    return at;
  }

  Shared<At> at_;
  Child child_;
};

const PlannedVma& vma_at(const CapturePlan& plan, const char* address) {
  const auto vma = std::find_if(plan.vmas.begin(), plan.vmas.end(), [&](const PlannedVma& each) {
    return each.mapping.start == reinterpret_cast<uint64_t>(address);
  });
  CHECK(vma != plan.vmas.end());
  return *vma;
}

// Pages of one of the mappings that are stored, as indices.
std::vector<uint64_t> stored_at(const RoundResult& result, const char* address) {
  const auto start = reinterpret_cast<uint64_t>(address);
  std::vector<uint64_t> pages;
  for (const StoredRun& run : result.table.runs) {
    const PageRange part =
        intersect({run.address, run.address + run.pages * kPageBytes}, {start, start + kBytes});
    for (uint64_t at = part.start; at < part.end; at += kPageBytes) {
      pages.push_back((at - start) / kPageBytes);
    }
  }
  return pages;
}

size_t warnings_of(const CapturePlan& plan, const std::string& path) {
  return static_cast<size_t>(
      std::count_if(plan.warnings.begin(), plan.warnings.end(), [&](const std::string& text) {
        return text.starts_with("mapped file " + path + ": it was first seen under the freeze");
      }));
}

SessionOptions limited_options(const Target& target, const TempDir& dir, CaptureMode mode) {
  SessionOptions options = options_for(target.pid(), dir, mode);
  options.freeze_limit_ms = 10'000;
  return options;
}

// Takes it back to how it is now.
RestoreOptions dumped(const Target& target) {
  const TempDir dir("/tmp");
  Dump dump(limited_options(target, dir, CaptureMode::kVmsplice));
  CHECK_EQ(dump.attach(), kNoErrors);
  CHECK_EQ(dump.prepare(), kNoErrors);
  dump.start_capture();
  CHECK_EQ(dump.wait_capture(), kNoErrors);
  const RoundResult result = dump.session.finish_round(0);
  dump.detach();
  return options_of_restore(dump, result, target.pid());
}

// Whatever it does when the server has stopped to answer, it asks nothing.
void check_dump(CaptureMode mode) {
  FuseServer server;
  Target target(server);
  const TempDir dir("/tmp");
  Dump dump(limited_options(target, dir, mode));
  CHECK_EQ(dump.attach(), kNoErrors);
  CHECK_EQ(dump.prepare(), kNoErrors);
  target.order(Target::kMap);
  server.hang();
  dump.start_capture();
  CHECK_EQ(dump.wait_capture(), kNoErrors);
  const RoundResult result = dump.session.finish_round(0);
  dump.detach();
  CHECK_EQ(server.unanswered(), 0);

  const Target::At& at = target.at();
  const std::vector<uint64_t> all = {0, 1, 2, 3};
  CHECK_EQ(vma_at(result.plan, at.known).file->bytes, kBytes);
  CHECK_EQ(std::string(vma_kind_name(vma_at(result.plan, at.removed).kind)), "deleted-file");
  CHECK_EQ(stored_at(result, at.removed), all);
  const PlannedVma& own = vma_at(result.plan, at.own);
  CHECK(own.kind == VmaKind::kPrivateFile && !own.file);
  CHECK_EQ(stored_at(result, at.own), std::vector<uint64_t>{1});
  CHECK_EQ(warnings_of(result.plan, server.file('c')), 1);
  const PlannedVma& shared = vma_at(result.plan, at.shared);
  CHECK(shared.kind == VmaKind::kExcluded);
  CHECK(shared.left_out.starts_with("it was first seen under the freeze"));
  CHECK_EQ(warnings_of(result.plan, server.file('d')), 1);
  CHECK_EQ(result.plan.warnings.size(), 2);
}

}  // namespace

TEST(unanswered_files_do_not_prolong_a_freeze) {
  check_dump(CaptureMode::kVmsplice);
  check_dump(CaptureMode::kRead);
}

TEST(unanswered_files_do_not_prolong_the_freeze_of_a_restore) {
  FuseServer server;
  Target target(server);
  RestoreSession restore(dumped(target));
  restore.attach();
  restore.check();
  server.hang();
  restore.freeze();
  restore.thaw();
  CHECK_EQ(restore.detach(), kNoErrors);
  CHECK_EQ(server.unanswered(), 0);
}

TEST(unanswered_files_are_not_mapped_by_a_restore) {
  FuseServer server;
  Target target(server);
  RestoreSession restore(dumped(target));
  restore.attach();
  restore.check();
  target.order(Target::kUnmap);
  server.hang();
  CHECK_THROWS("FILE_CHANGED", restore.freeze());
  CHECK_EQ(restore.detach(), kNoErrors);
  CHECK_EQ(server.unanswered(), 0);
}

TEST(unanswered_files_that_are_new_are_not_taken_for_those_of_an_image) {
  FuseServer server;
  Target target(server);
  MappedFiles then(target.pid());
  const CapturePlan plan = make_plan(target.pid(), &then, {}, Ask::kYes);
  const PlannedVma& vma = vma_at(plan, target.at().known);
  const std::vector<WantedVma> wanted = {{vma.mapping, vma.kind, "", vma.file}};
  const std::vector<PresentVma> present = {{vma.mapping, ""}};
  MappedFiles files(target.pid());
  files.learn();
  server.hang();
  CHECK_THROWS("RESTORE_MISMATCH",
               require_same_files(target.pid(), wanted, present, {}, &files, Ask::kNo));
  CHECK_EQ(server.unanswered(), 0);
}

}  // namespace sluice::test
